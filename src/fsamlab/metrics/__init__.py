"""Facts about metric keys for all modules: functions that read the metric table, :mod:`fsamlab.metrics.table`.

This package imports no other package, because the trainer uses it too: the table says which keys a summary keeps. In a
summary, `final/KEY` is the value of the last row, `best/KEY` the value of the best evaluation, and `measured/KEY` the
value that `fsamlab measure` found at a checkpoint, and `evaluated/SET/NAME` the value that `fsamlab evaluate` found on
another data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Literal

from fsamlab.metrics.headline import CLASSIFICATION, Headline
from fsamlab.metrics.row import Chart, Column, MetricRow
from fsamlab.metrics.table import DIRECTIONS, FAMILIES, OF_A_STEP, PATTERNS, ROWS, SECTIONS

__all__ = [
    "AT_CHECKPOINT",
    "CLASSIFICATION",
    "DIRECTIONS",
    "EVALUATED",
    "FAMILIES",
    "OF_A_STEP",
    "RATIOS",
    "ROWS",
    "SECTIONS",
    "Chart",
    "Column",
    "Declared",
    "Headline",
    "MetricRow",
    "axis",
    "columns_of",
    "factor",
    "family",
    "higher_is_better",
    "is_accuracy",
    "is_convention",
    "is_measured",
    "of",
    "ordered",
    "title",
]

AT_CHECKPOINT = "measured/"  # prefix of keys whose values are from `fsamlab measure`
EVALUATED = "evaluated/"  # prefix of keys whose values are from `fsamlab evaluate`: the next part is the data set
SOURCES = (AT_CHECKPOINT, EVALUATED, "final/", "best/")
RATIOS = {
    f"{source}{row.key}": (f"{source}{row.ratio_of[0]}", f"{source}{row.ratio_of[1]}")
    for source in ("", AT_CHECKPOINT, "final/")
    for row in ROWS
    if row.ratio_of
}
Declared = tuple[Headline, ...]  # the headlines that the tasks of the runs have declared
_BY_KEY = {row.key: row for row in ROWS}
_PARTS = (("test", "test"), ("val", "validation"), ("train", "training"))


@cache
def of(key: str, declared: Declared = ()) -> MetricRow:
    """Return the row of a logged key or of a column of the summary.

    If the table has no row for a key, the row is the one that the task declares, or the row of a pattern.
    """
    for headline in declared:
        if key in _rows_of(headline):
            return _rows_of(headline)[key]
    if key in _BY_KEY:
        return _BY_KEY[key]
    for source in SOURCES:
        if key.startswith(source):
            return of(key.removeprefix(source), declared)
    return next(row for row in PATTERNS if fnmatchcase(key, row.key))


@cache
def _rows_of(headline: Headline) -> dict[str, MetricRow]:
    """Return the rows of a task's headline metric, those of the table if it has them. Their charts come first."""
    percent, text = headline.percent, headline.title
    better: Literal["max", "min"] = "max" if headline.higher_is_better else "min"
    made = partial(MetricRow, unit="fraction" if percent else "-", section="accuracy", percent=percent, better=better)
    unit = " (%)" if percent else ""
    found = {}
    for place, (part, words) in enumerate(_PARTS, 1):
        key = f"{part}/{headline.name}"
        new = made(key, title=f"{words} {text}" + (", %" if percent else ""), axis=f"{words} {text}{unit}")
        row = _BY_KEY.get(key, new)
        found[key] = row if row.headline else replace(row, headline=place)
    for key, axis in (
        (headline.at_best, f"test {text} at best validation epoch{unit}"),
        (headline.at_end, f"test {text} at the end{unit}"),
    ):
        found[key] = _BY_KEY.get(key) or made(key, axis=axis, final=False)
    return found


def columns_of(headline: Headline) -> dict[str, Column]:
    """Return {key: column} for the headline metric of a task, in the page's table of results."""
    name = headline.title
    return {
        headline.at_best: Column(
            "", "test, best epoch", f"test {name} at the epoch with the best validation {name}", judged=True
        ),
        headline.at_end: Column("", "test, at the end", f"test {name} after the last epoch", judged=True),
        headline.chosen: Column("", "validation, best", f"the validation {name} that chose the epoch"),
    }


def higher_is_better(key: str, declared: Declared = ()) -> bool:
    """Return whether higher values of a metric are better; True for a metric without a direction."""
    return of(key, declared).better != "min"


def title(key: str, declared: Declared = ()) -> str:
    """Return the text above the chart of a metric on the page."""
    name, row = key.removeprefix(AT_CHECKPOINT), of(key, declared)
    text = row.title or name + (", %" if row.percent else "")
    return text + (" (measured at a checkpoint)" if key.startswith(AT_CHECKPOINT) else "")


def axis(key: str, declared: Declared = ()) -> str:
    """Return the axis label of exactly this key; an empty string if the key has no label of its own."""
    row = of(key, declared)
    return row.axis if row.key == key else ""


def ordered(keys: Iterable[str], declared: Declared = ()) -> list[str]:
    """Return keys in the order of the page: by section, headlines first, then by name."""

    def place(key: str) -> tuple[int, float, str]:
        row = of(key, declared)
        return SECTIONS.index(row.section), row.headline or float("inf"), key

    return sorted(keys, key=place)


def factor(key: str, declared: Declared = ()) -> int:
    """Return 100 for a fraction that is shown in per cent, 1 for other metrics."""
    return 100 if of(key, declared).percent else 1


def is_accuracy(key: str, declared: Declared = ()) -> bool:
    """Return whether a metric is an accuracy. Charts of accuracies do not show the first steep rise."""
    row = of(key, declared)
    return row.percent and row.section == "accuracy"


def family(key: str) -> str | None:
    """Return the family of a metric, a column of the summary or a convention; None if it belongs to no family.

    The values of a family share conventions. Values that `fsamlab measure` found form a family of their own.
    """
    found = of(key).family
    return f"{found} at checkpoints" if found and key.startswith(AT_CHECKPOINT) else found


def is_measured(key: str) -> bool:
    """Return whether a value was measured on samples, so that it may be compared only under equal conventions."""
    return of(key).family in FAMILIES and not is_convention(key)


def is_convention(key: str) -> bool:
    """Return whether a column holds a convention."""
    return key.removeprefix(AT_CHECKPOINT).startswith("diagnostics/")
