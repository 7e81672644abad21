"""The reader's side of a run directory: its files, read with checked types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fsamlab.storage.reading import Damaged, damaged, fits, misfit, read_json, read_yaml
from fsamlab.storage.torch_file import holds_weights_alone

STATUSES = ("queued", "running", "paused", "finished", "failed", "preempted", "cancelled", "lost", "damaged")
NUMBER = int | float
STATUS = {  # key -> type of its value in status.json
    **{"status": str, "run_id": str | None, "config_hash": str, "started": str, "updated": str, "host": str},
    **{"slurm_job_id": str | None, "slurm_cluster": str | None, "exception": str | None, "warnings": [str]},
    **{"attempts": int, "pid": int, "resumed_at": int, "starts_here": int, "forced": bool},
    **{"starting_over": bool, "life": str},
    **{"step": int, "last_step": int, "epoch": NUMBER, "latest": {str: NUMBER}},
    "task": {str: str | bool},  # of the headline metric; absent for a classification
}


def read_status(directory: Path) -> dict[str, Any]:
    """Return the content of a run's status.json; `{"status": "queued"}` for a run that never started.

    A run with summary and final weights is finished, whatever the file says: an older process may have slept while a
    newer process finished the run, and then have written its own status.

    Raises:
        Damaged: the file does not hold the status of a run.
    """
    path, mend = directory / "status.json", "remove the file: the run then continues from its last checkpoint"
    status = read_json(path, STATUS, ("status",), mend) or {"status": "queued"}
    if status["status"] not in STATUSES:
        raise damaged(path, f"is damaged: status is {status['status'][:60]!r}", mend)
    if status["status"] != "finished" and _has_end(directory, status):
        return {**status, "status": "finished", "exception": None}
    return status


def _has_end(directory: Path, status: dict[str, Any]) -> bool:
    """Return whether the final files of a run exist and do not come from a training that is being deleted."""
    return (
        not status.get("starting_over")
        and (directory / "summary.json").exists()
        and holds_weights_alone(directory / "checkpoints" / "last.pt")
    )


def read_config(directory: Path) -> dict[str, Any]:
    """Return a run's config.yaml as nested dictionaries.

    Raises:
        Damaged: the file does not exist, or does not hold the configuration of a run.
    """
    path, mend = directory / "config.yaml", "restore the file, or start the run over with force=true"
    try:
        config = read_yaml(path)
    except Damaged as e:
        raise damaged(path, f"is not the configuration of a run: {str(e).removeprefix(f'{path} ')}", mend) from e
    if not isinstance(config, dict):
        wrong = f"it holds a {type(config).__name__}" if path.exists() else "the file does not exist"
        raise damaged(path, f"is not the configuration of a run: {wrong}", mend)
    optimizer = config.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("name"), str):
        raise damaged(path, "is not the configuration of a run: optimizer.name is missing", mend)
    return config


def read_summary(directory: Path) -> dict[str, Any]:
    """Return a run's summary.json, empty where the file does not exist.

    Raises:
        Damaged: the file does not hold a summary.
    """
    path, mend = directory / "summary.json", "restore the file, or start the run over with force=true"
    summary = read_json(path, mend=mend)
    if summary is None:
        return {}
    numbers = {key: NUMBER | None for key in summary if key.startswith(("best/", "final/", "cost/"))}
    wrong = misfit(summary, numbers) if summary else "the file has no values"
    if wrong is not None:
        raise damaged(path, f"is damaged: {wrong}", mend)
    return summary


def read_environment(directory: Path) -> dict[str, Any] | None:
    """Return a run's env.json, None where the file does not exist.

    Raises:
        Damaged: the file does not hold an environment.
    """
    shape = {"git": {str: str | bool | None}, "libraries": dict, "num_threads": int, "device": str}
    return read_json(directory / "env.json", shape, mend="remove the file: it only records where the run ran")


def read_overrides(directory: Path) -> list[str]:
    """Return a run's overrides.yaml, empty where the file does not exist.

    Raises:
        Damaged: the file does not hold a list of words.
    """
    path, mend = directory / "overrides.yaml", "remove the file: it only records the words that were typed"
    overrides = read_yaml(path, mend)
    if not fits([] if overrides is None and not path.exists() else overrides, [str]):
        raise damaged(path, f"is damaged: it holds a {type(overrides).__name__}, not a list of words", mend)
    return list(overrides or [])


def is_finished(directory: Path) -> bool:
    """Return whether the run in `directory` has finished."""
    return read_status(directory)["status"] == "finished"
