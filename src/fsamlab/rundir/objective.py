"""The objective of a run, read from its directory: what a sweeper that searches gets for a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsamlab.metrics import Headline
from fsamlab.metrics.headline import AT_BEST, AT_END
from fsamlab.metrics.objective import objective, objective_column
from fsamlab.rundir.reading import is_finished, read_status, read_summary
from fsamlab.rundir.rows import open_rows


def objective_of(directory: Path, metric: str | None = None, at: str = "best") -> float | None:
    """Return the validation metric of a finished run, as :func:`fsamlab.metrics.objective.objective` does.

    Returns:
        The value; None if the run has not finished, or has no such value (data.val_size is 0).

    Raises:
        ValueError: the metric is not one of the validation data.
        Damaged: a file of the run cannot be read.
    """
    return objective(read_summary(directory), metric, at) if is_finished(directory) else None


@dataclass(frozen=True)
class Objective:
    """The objective of a run, finished or not.

    Attributes:
        column: the column of the summary that has, or will have, the value.
        value: None if the run has no such value.
        headline: of the task.
    """

    column: str
    value: float | None
    headline: Headline


def reached(directory: Path, until: int | None) -> bool:
    """Return whether a run has finished, or has the row at the end of epoch `until`.

    Raises:
        Damaged: a file of the run cannot be read.
    """
    if is_finished(directory):
        return True
    return until is not None and any(row["epoch"] >= until for row in open_rows(directory))


def objective_until(directory: Path, until: int | None, metric: str | None = None, at: str = "best") -> Objective:
    """Return the objective that a training has shown until the end of epoch `until`, from its rows.

    At the last epoch it is the objective of the finished run. The value does not depend on how far the run has been
    trained since.

    Args:
        directory: of the run.
        until: the epoch; None means all rows.
        metric, at: as in :func:`fsamlab.metrics.objective.objective_column`.

    Raises:
        ValueError: the metric is not one of the validation data.
        Damaged: a file of the run cannot be read.
    """
    headline = Headline.of(read_status(directory).get("task") or {})
    chosen = f"val/{headline.name}"
    best: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for row in open_rows(directory):
        if chosen not in row or (until is not None and row["epoch"] > until):
            continue
        last = row
        sign = 1 if headline.higher_is_better else -1
        if not best or sign * row[chosen] > sign * best[chosen] or best[chosen] != best[chosen]:
            best = row
    shown = {**{f"{AT_BEST}{k}": v for k, v in best.items()}, **{f"{AT_END}{k}": v for k, v in last.items()}}
    column = objective_column(metric, headline, at)
    value = shown.get(column)
    return Objective(column, None if value is None else float(value), headline)
