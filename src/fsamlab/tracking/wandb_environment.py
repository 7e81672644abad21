"""What W&B would find on this machine: its server, a key, a mode. Found without importing wandb, which costs a second.

Sources in wandb's order: environment variables, then `wandb/settings` below the current directory, then
`~/.config/wandb/settings`; keys also from a netrc file.
"""

from __future__ import annotations

import configparser
import http.client
import importlib.util
import netrc
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from fsamlab.tracking.worker import within

PROBE_SECONDS = 4.0  # for the server to answer at all


@dataclass(frozen=True)
class WandbEnvironment:
    """Where W&B would send a run.

    Attributes:
        base_url: the server's address.
        has_key: whether credentials for that server are configured.
        mode: the mode set by WANDB_MODE or a settings file; None if there is none.
        proxies: scheme -> proxy, from wandb's own settings; the usual variables (https_proxy) hold besides.
    """

    base_url: str
    has_key: bool
    mode: str | None
    proxies: dict[str, str]


def read_environment() -> WandbEnvironment:
    """Read the environment variables, settings files and netrc file that wandb reads.

    Raises:
        OSError, ValueError: an unreadable file.
    """
    files = _settings_files()

    def setting(key: str) -> str | None:
        return os.environ.get(f"WANDB_{key.upper()}") or files.get(key)

    base_url = _wandb_urls().normalize_forge_base_url(setting("base_url") or _wandb_urls().DEFAULT_BASE_URL).rstrip("/")
    has_key = bool(setting("api_key") or setting("identity_token_file")) or _netrc_has_key(base_url)
    mode = setting("mode")
    proxies = {scheme: setting(f"{scheme}_proxy") for scheme in ("http", "https")}
    return WandbEnvironment(
        base_url=base_url,
        has_key=has_key,
        mode="offline" if mode == "dryrun" else mode,  # its older name
        proxies={scheme: proxy for scheme, proxy in proxies.items() if proxy},
    )


def probe(environment: WandbEnvironment, seconds: float = PROBE_SECONDS) -> None:
    """Ask the server for anything at all; what it answers is of no interest unless it is broken (5xx).

    Raises:
        OSError: no answer within `seconds` (TimeoutError), none at all, or an internal error.
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
            if not isinstance(e.reason, ssl.SSLError):  # it is there; wandb may know its certificate
                raise
        except http.client.HTTPException as e:
            raise OSError(f"no HTTP server: {e!r}") from e

    # a thread, since the socket's timeout does not hold for the name's resolution
    within(seconds, ask, "W&B server")


def _settings_files() -> dict[str, str]:
    config_dir = os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")
    local_dir = Path(".wandb") if Path(".wandb").exists() else Path("wandb")
    parser = configparser.ConfigParser()
    try:
        parser.read([Path(config_dir).expanduser() / "settings", local_dir / "settings"])
        return dict(parser.items("default")) if parser.has_section("default") else {}
    except configparser.Error as e:
        raise ValueError(f"unreadable W&B settings: {e}".replace("\n", " ")) from e


def _netrc_has_key(base_url: str) -> bool:
    standard = [Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    given = os.environ.get("NETRC")
    path = Path(given).expanduser() if given else next((p for p in standard if p.exists()), standard[0])
    if not path.exists():
        return False
    try:
        entries = netrc.netrc(path)
    except netrc.NetrcParseError as e:
        raise ValueError(str(e)) from e
    # the key of one deployment may be filed under either of its two names
    hosts = [urlsplit(url).netloc for url in (base_url, _wandb_urls().forge_upstream_url(base_url))]
    found = [entries.authenticators(host) for host in hosts]
    return any(entry is not None and entry[2] for entry in found)


@cache
def _wandb_urls() -> ModuleType:
    """Load wandb's own table of server addresses, which changes between releases, by its path."""
    package = importlib.util.find_spec("wandb")
    if package is None or package.origin is None:
        raise ValueError("wandb is not installed")
    path = Path(package.origin).parent / "sdk" / "lib" / "urls.py"
    spec = importlib.util.spec_from_file_location("_wandb_urls", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
