"""Chooses which copy to show of a run that finished in two sweeps.

Runs with the same configuration and seed have the same run id and the same weights. The run id does not depend on
`diagnostics`, so the copies may differ in their measured values. The copy with the most measured values is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fsamlab.metrics import EVALUATED, family, is_convention
from fsamlab.results.settings import MAX_NAMED, more

T = TypeVar("T")


def copies(runs: Iterable[T], run_id: Callable[[T], str | None]) -> list[list[T]]:
    """Group runs by run id, in the order of first appearance.

    `run_id` returns None for a run that has not finished; such a run is a group alone.
    """
    found: dict[Any, list[T]] = {}
    for number, run in enumerate(runs):
        name = run_id(run)
        found.setdefault(number if name is None else name, []).append(run)
    return list(found.values())


def measured_keys(row: Mapping[str, Any]) -> set[str]:
    """Return the columns of a run that hold measured values."""
    found = {k for k, v in row.items() if "/" in k and v is not None}
    return {k for k in found if k.startswith(EVALUATED) or (family(k) and not is_convention(k))}


def best_first(group: list[T], row: Callable[[T], Mapping[str, Any]], whole: Callable[[T], bool]) -> list[T]:
    """Sort the copies of a run. Copies without damage come first, and among these the one with most measured values."""
    if len(group) == 1:
        return group
    return sorted(group, key=lambda run: (not whole(run), -len(measured_keys(row(run)))))


def notes_of(groups: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    """Return notes about runs that lie in several directories.

    Args:
        groups: for each run the rows of its copies; the copy that is shown is the first.

    Returns:
        (the directories that are not shown, the values that were measured only there), each as a list with one line, or
        with none.
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
