"""What `fsamlab sync` sends for a run: the rows, the summary, the exit code, and the place in W&B."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fsamlab.config import TrackerConfig
from fsamlab.metrics import AT_CHECKPOINT, EVALUATED
from fsamlab.rundir.find import current_status
from fsamlab.rundir.measurements import latest, latest_evaluations
from fsamlab.rundir.reading import read_config, read_summary
from fsamlab.rundir.row_file import Rows
from fsamlab.rundir.rows import open_rows
from fsamlab.storage.reading import Damaged
from fsamlab.tracking import wandb_arguments
from fsamlab.tracking.wandb_session import wandb_id


@dataclasses.dataclass(frozen=True)
class LocalRun:
    """What W&B receives for a run, read from the run's files.

    Attributes:
        directory: the run directory.
        arguments: as :func:`~fsamlab.tracking.wandb_arguments` returns them.
        tracker: project, entity and tags.
        rows: the rows of metrics.jsonl, with growing steps.
        summary: summary.json, the measurements of the last measured step as `measured/...`, and the evaluations on
            other data sets as `evaluated/...`.
        exit_code: 0 for a finished run, 1 for any other run.
        resumed_at: the step from which the last attempt resumed.
    """

    directory: Path
    arguments: dict[str, Any]
    tracker: TrackerConfig
    rows: Rows
    summary: dict[str, Any]
    exit_code: int
    resumed_at: int

    @property
    def wandb_id(self) -> str:
        """The id of the W&B run."""
        return wandb_id(self.arguments["run_id"])

    @property
    def last_step(self) -> int:
        """The step of the last row, -1 without rows."""
        return int(self.rows[-1]["step"]) if self.rows else -1


def read_run(run: Path, project: str | None, entity: str | None, timeout: float) -> LocalRun | str:
    """Return what to upload for a run, or a text that says why there is nothing to upload yet.

    Args:
        run: the run directory.
        project, entity: used instead of the run's own tracker.project and tracker.entity; None keeps these.
        timeout: seconds for the upload.

    Raises:
        Damaged: a file that cannot be used.
    """
    status = current_status(run)
    if status["status"] == "queued":
        return "has not started"
    if status["status"] == "running":  # its process may mirror it too, and two writers of one W&B run lose rows
        return "is running; sync it when it has ended"
    if status["status"] == "damaged":
        raise Damaged(status["exception"])
    own, tracker = _place(run, status, project, entity, timeout)
    rows = open_rows(run)
    step = -1.0
    for number, here in enumerate(rows.steps):
        if not here > step:
            words = f"line {number + 1}: step {rows[number]['step']} after {step:g}: steps have to grow"
            raise Damaged(f"{run / 'metrics.jsonl'}, {words}")
        step = here
    return LocalRun(
        run,
        own,
        tracker,
        rows,
        {
            **read_summary(run),
            **{f"{AT_CHECKPOINT}{k}": v for k, v in latest(run).items()},
            **{f"{EVALUATED}{k}": v for k, v in latest_evaluations(run).items()},
        },
        0 if status["status"] == "finished" else 1,
        int(status.get("resumed_at") or 0),
    )


def _place(
    run: Path, status: dict[str, Any], project: str | None, entity: str | None, timeout: float
) -> tuple[dict[str, Any], TrackerConfig]:
    """Return the arguments of the W&B run, and the config that names its project, entity and tags."""
    config = read_config(run)
    if status.get("run_id") is None:
        raise Damaged(f"{run / 'status.json'} has no run_id")
    try:
        own = config["tracker"]
        place = {"project": project or own["project"], "entity": entity or own["entity"], "tags": own["tags"]}
        tracker = TrackerConfig(name="wandb", mode="online", finish_timeout=timeout, **place)
        return wandb_arguments(config, status["run_id"]), tracker
    except (KeyError, TypeError) as e:
        raise Damaged(f"{run / 'config.yaml'} is no run's configuration: {type(e).__name__}: {e}") from e
