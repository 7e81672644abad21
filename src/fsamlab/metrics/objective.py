"""The objective of a run, by which settings are chosen. Validation data give it; test data choose nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fsamlab.metrics.headline import AT_BEST, AT_END, Headline

PLACES = {"best": AT_BEST, "last": AT_END}  # the best epoch on validation data, the last epoch
ALLOWED = "must be a metric of the validation data, as val/acc1: nothing is chosen on test or training data"


def objective_column(metric: str | None = None, headline: Headline | None = None, at: str = "best") -> str:
    """Return the column of the summary with the objective.

    Args:
        metric: `val/NAME`, or a column of the summary, `best/val/NAME` or `final/val/NAME`, which says the epoch
            itself; None means the headline metric on validation data.
        headline: of the task; None means that of a classification.
        at: which epoch, a key of PLACES: `best` for the epoch with the best validation headline, or `last`.

    Raises:
        ValueError: the metric is not one of the validation data; the message is what is allowed.
    """
    if metric is None:
        return f"{PLACES[at]}val/{(headline or Headline()).name}"
    found = re.fullmatch(rf"({AT_BEST}|{AT_END})?(val/\S+)", metric)
    if found is None:
        raise ValueError(ALLOWED)
    return (found[1] or PLACES[at]) + found[2]


def objective(summary: Mapping[str, Any], metric: str | None = None, at: str = "best") -> float | None:
    """Return the objective of a finished run from its summary.

    Args:
        summary: of the run; it names the headline metric of the task.
        metric, at: as in :func:`objective_column`.

    Returns:
        The value; None if the run has no such value, for example because it has no validation split.

    Raises:
        ValueError: the metric is not one of the validation data.
    """
    value = summary.get(objective_column(metric, Headline.of(summary, "task/"), at))
    return None if value is None else float(value)
