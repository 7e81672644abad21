"""The objective of a run, read from its directory: what a sweeper that searches gets for a run."""

from __future__ import annotations

from pathlib import Path

from fsamlab.metrics.objective import objective
from fsamlab.rundir.reading import is_finished, read_summary


def objective_of(directory: Path, metric: str | None = None, at: str = "best") -> float | None:
    """Return the validation metric of a finished run, as :func:`fsamlab.metrics.objective.objective` does.

    Returns:
        The value; None if the run has not finished, or has no such value (data.val_size is 0).

    Raises:
        ValueError: the metric is not one of the validation data.
        Damaged: a file of the run cannot be read.
    """
    return objective(read_summary(directory), metric, at) if is_finished(directory) else None
