"""What a metric's key means to every module: one table, :mod:`fsamlab.metrics.table`, and how to ask for its rows.

The room stands below the trainer, which asks which keys a summary keeps, and imports nothing. A key of a summary has
the last row's value as `final/...`, the best evaluation's as `best/...`, and what `fsamlab measure` found at a
checkpoint as `measured/...`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache

from fsamlab.metrics.row import Chart, Column, Metric
from fsamlab.metrics.table import DIRECTIONS, FAMILIES, OF_A_STEP, PATTERNS, ROWS, SECTIONS

__all__ = [
    "AT_CHECKPOINT",
    "DIRECTIONS",
    "FAMILIES",
    "OF_A_STEP",
    "RATIOS",
    "ROWS",
    "SECTIONS",
    "Chart",
    "Column",
    "Metric",
    "axis",
    "factor",
    "family",
    "is_accuracy",
    "is_convention",
    "is_measured",
    "of",
    "ordered",
    "title",
]

AT_CHECKPOINT = "measured/"  # before a key: by `fsamlab measure`, not while training
SOURCES = (AT_CHECKPOINT, "final/", "best/")
RATIOS = {
    f"{source}{row.key}": (f"{source}{row.ratio_of[0]}", f"{source}{row.ratio_of[1]}")
    for source in ("", AT_CHECKPOINT, "final/")
    for row in ROWS
    if row.ratio_of
}
_BY_KEY = {row.key: row for row in ROWS}


@cache
def of(key: str) -> Metric:
    """Return the row of a logged key or of a column of the summary; the row of a pattern where the key has none."""
    if key in _BY_KEY:
        return _BY_KEY[key]
    for source in SOURCES:
        if key.startswith(source):
            return of(key.removeprefix(source))
    return next(row for row in PATTERNS if fnmatchcase(key, row.key))


def title(key: str) -> str:
    """Return the text above the chart of a metric on the page."""
    name, row = key.removeprefix(AT_CHECKPOINT), of(key)
    text = row.title or name + (", %" if row.percent else "")
    return text + (" (measured at a checkpoint)" if key.startswith(AT_CHECKPOINT) else "")


def axis(key: str) -> str:
    """Return the text at a figure's axis that the table has for exactly this key; empty where the table has none."""
    return _BY_KEY[key].axis if key in _BY_KEY else ""


def ordered(keys: Iterable[str]) -> list[str]:
    """Return metrics in the order of a page: by section, the headlines first, then by name."""

    def place(key: str) -> tuple[int, float, str]:
        return SECTIONS.index(of(key).section), of(key).headline or float("inf"), key

    return sorted(keys, key=place)


def factor(key: str) -> int:
    """Return 100 for fractions that are shown in per cent, else 1."""
    return 100 if of(key).percent else 1


def is_accuracy(key: str) -> bool:
    """Return whether a metric is an accuracy: a fraction whose chart starts below the values of a trained network."""
    return of(key).percent and of(key).section == "accuracy"


def family(key: str) -> str | None:
    """Return the family of values that share conventions, of a metric, a summary column or a convention; or None.

    What was measured at a checkpoint is another family than what was measured while training.
    """
    found = of(key).family
    return f"{found} at checkpoints" if found and key.startswith(AT_CHECKPOINT) else found


def is_measured(key: str) -> bool:
    """Return whether a value was measured on samples, and may be compared under equal conventions only."""
    return of(key).family in FAMILIES and not is_convention(key)


def is_convention(key: str) -> bool:
    """Return whether a column is a convention, no value."""
    return key.removeprefix(AT_CHECKPOINT).startswith("diagnostics/")
