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
    """Return the id with a hyphen for each character that wandb refuses, such as :;,#?/'.

    Different ids stay different: an id with such characters gets a digest of itself at its end. `a b` and `a-b` are two
    runs.
    """
    plain = re.sub(r"[^\w.=+-]", "-", run_id)
    return plain if plain == run_id else f"{plain}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


class WandbSession:
    """Opens the W&B run of an id, a new run or an existing one.

    Args:
        cfg: project, entity, tags and bounds on time.
        mode: online or offline.
        run_id, name, group, job_type, config: as :func:`~fsamlab.tracking.wandb_arguments` returns them.
        directory: wandb writes its files below this directory.
        machine: whether wandb also sends facts about this machine, process and repository.

    Attributes:
        url: page of the run on the server; None if offline.
        server_step: the last step that the server has; -1 for a new run, and if offline.
        problems: the warnings of wandb, which it does not raise.

    Raises:
        Exception: any error of wandb, in `__init__` and in every method.
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
            finish_timeout=0.8 * cfg.finish_timeout,  # so that wandb gives up before the tracker does
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=5,  # seconds of an offline run that a kill -9 may lose
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
        """Send one row as step `step`. Steps must grow."""
        self._run.log({**{k: v for k, v in row.items() if k != "step"}, "global_step": step}, step=step)

    def finish(self, summary: dict[str, Any], exit_code: int) -> None:
        """Set the summary with its keys as they are, and end the run when everything is uploaded.

        Raises:
            TimeoutError: not everything is uploaded within 80 % of finish_timeout.
        """
        for key, value in summary.items():
            self._run.summary[key] = value
        self._run.finish(exit_code=exit_code)


def service_process() -> Any:
    """Return the `subprocess.Popen` of wandb-core, the process that uploads; None if it was not started."""
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection
    return None if connection is None or connection._proc is None else connection._proc._process


def kill_service() -> None:
    """Kill wandb-core and make wandb forget it, so that neither the interpreter's end nor the next run waits."""
    import wandb

    process = service_process()
    if process is not None:
        process.kill()
    # teardown removes wandb's exit hook; after that it fails on the lost connection, or raises SystemExit with the
    # return code of the killed process
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
