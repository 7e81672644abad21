"""A run that finished in two sweeps: one run, with what either of them measured.

Two runs of one configuration and seed have the same identity and so the same weights; what was measured on the way
is not part of it (`diagnostics` is no part of the identity), and one sweep may have measured what the other did not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fsamlab.conventions import family, is_convention

Row = dict[str, Any]


def add_measured(row: Row, rows: list[Row], other: Row, other_rows: Iterable[Row]) -> list[str]:
    """Add to a run what only the other run of the same identity measured; return the families left out.

    Args:
        row: the run's row of `collect`; changed.
        rows: its rows of metrics; the other's are appended, with nothing in them but the step, the epoch and what
            is added.
        other, other_rows: the other run's.

    Returns:
        The families of :mod:`fsamlab.conventions` that both measured, under different conventions: the other's may
        not stand beside the run's own.
    """
    ours, theirs = _by_family(row), _by_family(other)
    clashing = [name for name in theirs if _has_values(theirs[name]) and _clash(ours.get(name, {}), theirs[name])]
    wanted = [name for name in theirs if _has_values(theirs[name]) and name not in clashing]
    for name in wanted:
        known = ours.get(name, {})
        row.update({k: v for k, v in theirs[name].items() if not _has_values(known) or k not in known})
    present = {key for one in rows for key in one}
    for one in other_rows:
        values = {k: v for k, v in one.items() if k not in present and family(k) in wanted and not is_convention(k)}
        if values:
            families = {family(k) for k in values}
            under = {k: v for k, v in one.items() if is_convention(k) and family(k) in families}
            rows.append({"step": one["step"], "epoch": one["epoch"], **values, **under})
    return clashing


def _by_family(row: Row) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for key, value in row.items():
        name = family(key) if "/" in key else None
        if name is not None and value is not None:
            found.setdefault(name, {})[key] = value
    return found


def _has_values(columns: Row) -> bool:
    return any(not is_convention(key) for key in columns)


def _clash(ours: Row, theirs: Row) -> bool:
    """Return whether both have values, and some convention is another."""
    keys = {key for key in (*ours, *theirs) if is_convention(key)}
    return _has_values(ours) and any(ours.get(key) != theirs.get(key) for key in keys)
