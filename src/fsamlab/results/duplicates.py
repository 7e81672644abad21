"""A run that finished in two sweeps is shown once.

Runs of one configuration and seed have one identity and the same weights. `diagnostics` is no part of the identity,
so the copies may differ in the measured values: the copy with the most measured values is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fsamlab.metrics import family, is_convention
from fsamlab.results.settings import MAX_NAMED, more

T = TypeVar("T")


def copies(runs: Iterable[T], run_id: Callable[[T], str | None]) -> list[list[T]]:
    """Group runs by run id, in the order of first appearance.

    `run_id` returns None for a run that has not finished: such a run is a group of its own.
    """
    found: dict[Any, list[T]] = {}
    for number, run in enumerate(runs):
        name = run_id(run)
        found.setdefault(number if name is None else name, []).append(run)
    return list(found.values())


def measured_keys(row: Mapping[str, Any]) -> set[str]:
    """Return the columns of a run that hold measured values."""
    return {k for k, v in row.items() if "/" in k and family(k) and not is_convention(k) and v is not None}


def best_first(group: list[T], row: Callable[[T], Mapping[str, Any]], whole: Callable[[T], bool]) -> list[T]:
    """Return the copies of a run, the copy to show first: one without damage, then the most measured values."""
    if len(group) == 1:
        return group
    return sorted(group, key=lambda run: (not whole(run), -len(measured_keys(row(run)))))


def notes_of(groups: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    """Return what a reader must know of runs in several directories.

    Args:
        groups: for each run the rows of its copies, the copy that is shown first.

    Returns:
        Which directories are not shown, and which values were measured only there: one line each, or none.
    """
    hidden = [str(row["directory"]) for _, *others in groups for row in others]
    missing = sorted({key for shown, *others in groups for row in others for key in measured_keys(row) - shown.keys()})
    said = "the same run (configuration and seed) lies in several directories and is shown once; not shown: "
    lost = "measured only in directories that are not shown: "
    remedy = "; `fsamlab measure` measures the runs that are shown"
    return (
        [said + ", ".join(hidden[:MAX_NAMED]) + more(hidden)] if hidden else [],
        [lost + ", ".join(missing[:MAX_NAMED]) + more(missing) + remedy] if missing else [],
    )
