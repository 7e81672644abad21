"""One W&B run, in plain calls, which may raise or block. :mod:`wandb_tracker` guards these calls.

Importing this module does not import wandb; opening a session does.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

from fsamlab.config import TrackerConfig
from fsamlab.tracking.wandb_environment import Messages, import_wandb


def wandb_id(run_id: str) -> str:
    """Return the id without what wandb refuses in one: :;,#?/' and the like. Two ids stay two.

    An id that has such characters ends with a digest of itself: `a b` and `a-b` are two runs.
    """
    plain = re.sub(r"[^\w.=+-]", "-", run_id)
    return plain if plain == run_id else f"{plain}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


class WandbSession:
    """Opens the W&B run of this id, new or for going on with it.

    Args:
        machine: whether wandb adds what it finds out about this machine, process and repository.

    Attributes:
        url: where the server shows the run; None offline.
        server_step: the last step the server has; -1 for a new run, and offline, where nobody knows.
        problems: what wandb warned of and did not raise.

    Raises:
        Exception: whatever wandb raises, in `__init__` and in every method.
    """

    def __init__(
        self,
        cfg: TrackerConfig,
        mode: str,
        *,
        run_id: str,
        name: str,
        group: str,
        job_type: str,
        config: dict[str, Any],
        directory: Path,
        machine: bool = True,
    ) -> None:
        wandb = import_wandb()
        messages = Messages()
        self.problems = messages.problems
        wandb.setup(wandb.Settings(silent=True))
        wandb.termsetup(wandb.Settings(silent=True), messages)
        settings = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=cfg.init_timeout,
            finish_timeout=0.8 * cfg.finish_timeout,  # ends before the tracker's own bound
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=5,  # what a kill -9 may lose of an offline run, in seconds
            x_disable_machine_info=not machine,
            x_disable_stats=not machine,
            x_disable_meta=not machine,
            x_save_requirements=machine,
        )
        self._run = wandb.init(
            project=cfg.project,
            entity=cfg.entity,
            id=wandb_id(run_id),
            name=name,
            group=group,
            job_type=job_type,
            tags=cfg.tags,
            config=config,
            dir=str(directory),
            mode="offline" if mode == "offline" else "online",
            resume="allow",
            reinit="finish_previous",
            save_code=False,
            settings=settings,
        )
        written = Path(self._run.settings.sync_dir).resolve()
        if not written.is_relative_to(directory.resolve()):
            raise OSError(f"{directory} is not writable, and wandb went to {written}")
        self._run.define_metric("*", step_metric="global_step")
        self.url: str | None = None if mode == "offline" else self._run.url
        self.server_step = self._run.starting_step - 1 if self._run.resumed else -1

    def log(self, row: dict[str, float], step: int) -> None:
        """Send one row as step `step`; steps have to grow."""
        self._run.log({**{k: v for k, v in row.items() if k != "step"}, "global_step": step}, step=step)

    def finish(self, summary: dict[str, Any], exit_code: int) -> None:
        """Set the summary, key by key as given, and end the run when everything is uploaded.

        Raises:
            TimeoutError: not everything is uploaded within 80 % of finish_timeout.
        """
        for key, value in summary.items():
            self._run.summary[key] = value
        self._run.finish(exit_code=exit_code)


def service_process() -> Any:
    """Return the `subprocess.Popen` of wandb-core, the process that uploads; None if this process has none."""
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection
    return None if connection is None or connection._proc is None else connection._proc._process


def kill_service() -> None:
    """Kill wandb-core and forget it, so that neither the interpreter's end nor the next run waits for it."""
    import wandb

    process = service_process()
    if process is not None:
        process.kill()
    # its connection is gone with it: teardown removes wandb's exit hook and then stumbles over that,
    # or raises SystemExit with the killed process's return code
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
