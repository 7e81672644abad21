"""The form of a row of the metric table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Chart:
    """A panel of the W&B dashboard. Rows that share a chart are lines of one panel, in the order of the table.

    Attributes:
        section: section of the dashboard.
        title: title of the panel.
        x: key of the horizontal axis; None for bars of summary values, one for each method.
        log: whether the axis is logarithmic, for positive values that differ by orders of magnitude.
        points: a key of the summary, for a panel with one point for each run: `points` over the row's own key.
    """

    section: str
    title: str
    x: str | None = "epoch"
    log: bool = False
    points: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the page's results by setting.

    Attributes:
        source: prefix of the row's key in the summary, `final/` or `measured/`; empty if the row's key is a key of the
            summary.
        heading: heading of the column.
        text: explanation of the column.
        judged: whether the clearly best setting is printed in bold.
    """

    source: str
    heading: str
    text: str
    judged: bool = False


@dataclass(frozen=True)
class MetricRow:
    """A row of the metric table.

    Attributes:
        key: the logged key, or a pattern with `*` for keys without a row of their own.
        unit: unit of the logged value, in the words of docs/metrics.md; `-` for a pure number.
        section: section of the page.
        title: title of the chart on the page.
        axis: axis label in figures; if it is empty, the label is the key.
        panel: title of the panel in :func:`fsamlab.figures.sharpness`, which draws the rows with a `panel`.
        percent: whether a fraction is shown in per cent.
        family: the family of values with the same conventions (`table.FAMILIES`); None if there are no conventions.
        headline: place among the charts that the page shows first, from 1 in each section; 0 for all other charts.
        terminal: whether `fsamlab measure` prints the value for several runs.
        better: whether higher ("max") or lower ("min") values are better; None if neither is.
        final: whether summary.json has the value of the last row as `final/...`.
        ratio_of: keys of numerator and denominator. Over seeds the ratio of the means is shown, because a mean of
            ratios is biased.
        charts: panels of the W&B dashboard.
        columns: columns of the page's table of results.
    """

    key: str
    unit: str = "-"
    section: str = "schedule and cost"
    title: str = ""
    axis: str = ""
    panel: str = ""
    percent: bool = False
    family: str | None = None
    headline: int = 0
    terminal: bool = False
    better: Literal["max", "min"] | None = None
    final: bool = True
    ratio_of: tuple[str, str] | None = None
    charts: tuple[Chart, ...] = ()
    columns: tuple[Column, ...] = ()
