"""A run that finished in two sweeps: one run, with what either of them measured.

Two runs of one configuration and seed have the same identity and so the same weights; what was measured on the way
is not part of it (`diagnostics` is no part of the identity), and one sweep may have measured what the other did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fsamlab.results.conventions import AT_CHECKPOINT, family, is_convention

Row = dict[str, Any]
T = TypeVar("T")
STEP = f"{AT_CHECKPOINT}step"  # the last one at which a run was measured by `fsamlab measure`


def copies(runs: Iterable[T], run_id: Callable[[T], str | None]) -> list[list[T]]:
    """Return runs in order, those of one identity together; `run_id` is None for one that has not finished."""
    found: dict[Any, list[T]] = {}
    for number, run in enumerate(runs):
        name = run_id(run)
        found.setdefault(number if name is None else name, []).append(run)
    return list(found.values())


def add_measured(row: Row, rows: list[Row], other: Row, other_rows: Sequence[Row]) -> list[str]:
    """Add to a run what only the other run of the same identity measured; return the families left out.

    Args:
        row: the run's row of `collect`; changed. Values of checkpoints in it are of one step, the later run's.
        rows: its rows of metrics; the other's are appended, with nothing in them but where they stand and what is
            added.
        other, other_rows: the other run's.

    Returns:
        The families of :mod:`fsamlab.results.conventions` that both measured, under different conventions: the
        other's may not stand beside the run's own.
    """
    ours, theirs = _by_family(row), _by_family(other)
    clashing = [name for name in theirs if _has_values(theirs[name]) and _clash(ours.get(name, {}), theirs[name])]
    wanted = {name for name in theirs if _has_values(theirs[name]) and name not in clashing}
    for name in wanted:
        if not _at_checkpoint(theirs[name]):
            known = ours.get(name, {})
            row.update({k: v for k, v in theirs[name].items() if not _has_values(known) or k not in known})
    _add_checkpoint(row, other, wanted, any(_at_checkpoint(theirs[name]) for name in clashing))
    _add_rows(rows, other_rows, wanted)
    return clashing


def _add_checkpoint(row: Row, other: Row, wanted: set[str], clash: bool) -> None:
    """Take the checkpoint's values from the run that was measured at the later step; at the same step from both."""
    here, there = row.get(STEP, -1), other.get(STEP, -1)
    theirs = {key: value for key, value in other.items() if key.startswith(AT_CHECKPOINT)}
    if there > here and not clash:
        for key in [key for key in row if key.startswith(AT_CHECKPOINT)]:
            del row[key]
        row.update(theirs)
    elif there == here:
        row.update({k: v for k, v in theirs.items() if family(k) in wanted and row.get(k) is None})


def _add_rows(rows: list[Row], other_rows: Sequence[Row], wanted: set[str]) -> None:
    """Append the values of the wanted families that are not there: of training anywhere, of checkpoints at the step."""

    def place(key: str, row: Row) -> tuple[str, Any]:
        return key, row["step"] if key.startswith(AT_CHECKPOINT) else None

    present = {place(key, row) for row in rows for key in row}
    times = {row["step"]: row["time"] for row in rows if "time" in row}
    for one in other_rows:
        new = [k for k in one if family(k) in wanted and not is_convention(k) and place(k, one) not in present]
        if new:
            families = {family(key) for key in new}
            under = [key for key in one if is_convention(key) and family(key) in families]
            time = {"time": times[one["step"]]} if one["step"] in times and "time" in one else {}
            rows.append({"step": one["step"], "epoch": one["epoch"], **time, **{k: one[k] for k in (*new, *under)}})


def _by_family(row: Row) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for key, value in row.items():
        name = family(key) if "/" in key else None
        if name is not None and value is not None:
            found.setdefault(name, {})[key] = value
    return found


def _has_values(columns: Mapping[str, Any]) -> bool:
    return any(not is_convention(key) for key in columns)


def _at_checkpoint(columns: Mapping[str, Any]) -> bool:
    return any(key.startswith(AT_CHECKPOINT) for key in columns)


def _clash(ours: Row, theirs: Row) -> bool:
    """Return whether both have values, and some convention is another."""
    keys = {key for key in (*ours, *theirs) if is_convention(key)}
    return _has_values(ours) and any(ours.get(key) != theirs.get(key) for key in keys)
