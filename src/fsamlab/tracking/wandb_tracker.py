"""Weights & Biases, behind a guard: the first failure is one warning, after it the run goes on without W&B."""

from __future__ import annotations

import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsamlab.config import TrackerConfig

log = logging.getLogger(__name__)

PROBE_SECONDS = 5.0  # for a server to answer at all


def may_have_key() -> bool:
    """Return whether an API key may be configured; False is certain. Does not import wandb, which costs a second."""
    if any(os.environ.get(key) for key in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    home = Path.home()
    config_dir = Path(os.environ.get("WANDB_CONFIG_DIR", home / ".config" / "wandb"))
    places = (Path(os.environ.get("NETRC", home / ".netrc")), home / "_netrc", config_dir / "settings")
    return any(p.expanduser().exists() for p in places)


def why_not_online(timeout: float) -> str | None:
    """Return why W&B cannot be used online right now, None if it can: a key, and a server that answers."""
    if not may_have_key():
        return "no API key; `wandb login` configures one"
    import wandb
    from wandb.sdk.lib import wbauth

    base_url = wandb.Settings().base_url
    has_key = bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))
    if not (has_key or wbauth.read_netrc_auth(host=wbauth.HostUrl(base_url)) or wandb.Settings().api_key):
        return f"no API key for {base_url}; `wandb login` configures one"
    try:
        urllib.request.urlopen(base_url, timeout=min(timeout, PROBE_SECONDS)).close()
    except urllib.error.HTTPError:
        return None  # it answers; what it says is init's business
    except OSError as e:
        return f"{base_url} does not answer: {getattr(e, 'reason', e)}"
    return None


class WandbTracker:
    """One W&B run with a stable id; rows that the server has already are not sent again."""

    def __init__(self, cfg: TrackerConfig, run_id: str, directory: Path, start_step: int) -> None:
        self.cfg, self.run_id, self.directory = cfg, run_id, directory
        self.last_step = start_step
        self.url: str | None = None
        self._run: Any = None

    def start(self, mode: str, *, name: str, group: str, job_type: str, config: dict[str, Any]) -> None:
        """Open the run, or go on with it after a restart."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else an offline node waits 10 s at exit

        def init() -> None:
            import wandb

            settings = wandb.Settings(
                console="off",
                quiet=True,
                init_timeout=self.cfg.init_timeout,
                finish_timeout=self.cfg.finish_timeout,
                x_transaction_log_flush_interval=5,  # what a kill -9 may lose
            )
            self._run = wandb.init(
                project=self.cfg.project,
                entity=self.cfg.entity,
                id=self.run_id,
                name=name,
                group=group,
                job_type=job_type,
                tags=self.cfg.tags,
                config=config,
                dir=str(self.directory),
                mode=mode,  # type: ignore[arg-type]
                resume="allow",
                reinit="finish_previous",
                save_code=False,
                settings=settings,
            )
            written = Path(self._run.settings.sync_dir).resolve()
            if not written.is_relative_to(self.directory.resolve()):
                raise OSError(f"{self.directory} is not writable: W&B went to {written}")
            self._run.define_metric("global_step", hidden=True)
            self._run.define_metric("*", step_metric="global_step")
            self.last_step = max(self.last_step, self._run.step - 1 if self._run.resumed else 0)
            self.url = self._run.url

        self._guard("init", init)
        if self._run is None:
            self.url = None

    def log(self, row: dict[str, float], step: int) -> None:
        """Mirror one row, once."""
        if self._run is None or step <= self.last_step:
            return
        self.last_step = step
        self._guard("log", lambda: self._run.log({**row, "global_step": step}, step=step))

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """Send the summary and end the run, within cfg.finish_timeout."""
        if self._run is None:
            return

        def finish() -> None:
            for key, value in summary.items():
                self._run.summary[key] = value
            self._run.finish(exit_code=exit_code)

        self._guard("finish", finish)
        self._run = None

    def _guard(self, what: str, call: Callable[[], None]) -> None:
        """Call W&B; a failure is one warning, and the end of W&B for this run."""
        began = time.monotonic()
        try:
            call()
        except Exception as e:
            seconds = time.monotonic() - began
            reason = f"{type(e).__name__}: {e}".partition("\n")[0]
            log.warning(
                "W&B failed in %s after %.0f s (%s); training goes on, metrics.jsonl is whole", what, seconds, reason
            )
            self._run = None
