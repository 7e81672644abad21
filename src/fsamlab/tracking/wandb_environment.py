"""Which server, key and mode wandb would use on this machine, and whether that server answers.

wandb decides; this module asks wandb and adds a bounded probe. Importing this module does not import wandb. Where
nothing of W&B is configured, wandb is not imported at all: its import takes half a second.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from fsamlab.tracking.worker import within

PROBE_SECONDS = 4.0  # for the server to send any answer
DEFAULT_SERVER = "https://api.forge.coreweave.com"  # of wandb 0.31; a test compares
# All files that wandb 0.31 reads a key, a server or a mode from: netrc, its settings, the secrets of SageMaker.
PLACES = ("~/.netrc", "~/_netrc", "~/.config/wandb/settings", "wandb/settings", ".wandb/settings", "secrets.env")


class Messages:
    """Takes the lines that wandb would print on the terminal.

    Attributes:
        problems: the warnings and errors so far. They are the only sign that wandb gave up an upload.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def info(self, msg: str) -> None:
        """Take a line of information, and show it to nobody."""

    def warning(self, msg: str) -> None:
        """Take a warning, for example that an error of the server was final."""
        self.problems.append(msg.removeprefix("wandb: ").removeprefix("WARNING ").partition(". ")[0])

    error = warning


@dataclass(frozen=True)
class WandbEnvironment:
    """Where wandb would send a run.

    Attributes:
        base_url: the address of the server.
        has_key: whether wandb finds credentials for that server.
        mode: the mode of WANDB_MODE or of a settings file of wandb; None if neither sets one.
        proxies: scheme -> proxy, from wandb's own settings. The usual variables (https_proxy) hold too.
        problems: what wandb could not read while it looked, for example a damaged netrc file.
    """

    base_url: str
    has_key: bool
    mode: str | None
    proxies: dict[str, str]
    problems: tuple[str, ...] = ()

    @property
    def no_key(self) -> str:
        """The line for a machine without credentials."""
        reason = f" ({'; '.join(self.problems)})" if self.problems else ""
        return f"no API key for {self.base_url}{reason}; `wandb login` or WANDB_API_KEY configures one"


def read_environment() -> WandbEnvironment:
    """Ask wandb for its server, credentials and mode. wandb starts no process and sends nothing for this.

    Raises:
        Exception: whatever wandb raises, for example for a key that has the wrong form.
    """
    if nothing_is_configured():
        return WandbEnvironment(DEFAULT_SERVER, has_key=False, mode=None, proxies={})
    wandb = import_wandb()
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    messages = Messages()
    quiet = wandb.Settings(silent=True)
    wandb.termsetup(quiet, messages)
    # not wandb.setup(), which starts wandb-core: somebody without an account needs no such process
    settings = wandb_setup.singleton().settings
    wandb.termsetup(quiet, messages)  # again: loading the settings made wandb print once more
    key = wbauth.authenticate_session(host=settings.base_url, source="fsamlab", prompt=False, update_session=False)
    mode = settings.mode if "mode" in settings.model_fields_set else None
    proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
    return WandbEnvironment(
        base_url=settings.base_url,
        has_key=key is not None,
        mode="offline" if mode == "dryrun" else mode,  # the older name of offline
        proxies={scheme: proxy for scheme, proxy in proxies.items() if proxy},
        problems=tuple(" ".join(problem.split()) for problem in messages.problems),
    )


def nothing_is_configured() -> bool:
    """Return whether wandb finds no credentials and no settings for sure: there is no variable and no file of W&B.

    False only means that wandb has to be asked.
    """
    if "wandb" in sys.modules:  # the program may have logged in already
        return False
    if any(name == "NETRC" or name.startswith("WANDB_") for name in os.environ):
        return False
    return not any(os.path.lexists(os.path.expanduser(place)) for place in PLACES)


def import_wandb() -> Any:
    """Import wandb without its error reports, for which a node without DNS would wait 10 s at its exit."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def probe(environment: WandbEnvironment, seconds: float = PROBE_SECONDS) -> None:
    """Send the server one request. Every answer will do, except an internal error of the server (5xx).

    Raises:
        OSError: the server did not answer within `seconds` (TimeoutError), did not answer at all, or is broken.
    """
    proxies = urllib.request.ProxyHandler({**urllib.request.getproxies(), **environment.proxies})
    opener = urllib.request.build_opener(proxies)

    def ask() -> None:
        try:
            opener.open(environment.base_url, timeout=seconds).close()
        except urllib.error.HTTPError as e:
            if e.code >= 500:
                raise
        except urllib.error.URLError as e:
            if not isinstance(e.reason, ssl.SSLError):  # the server is there; wandb may know its certificate
                raise
        except http.client.HTTPException as e:
            raise OSError(f"no HTTP server: {e!r}") from e

    # in a thread, because the timeout of a socket does not bound the resolution of the name
    within(seconds, ask, "W&B server")
