"""The form of a row of the metric table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Chart:
    """A panel of the W&B dashboard. Rows that share a chart are lines of one panel, in the order of the table.

    Attributes:
        section: of the dashboard.
        title: above the panel.
        x: the key of the horizontal axis; None for bars, one for each method, of the summary.
        log: whether the values span decades, and are positive.
        points: a key of the summary. The panel has one point for each run: `points` over the row's own key.
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
        source: what stands before the row's key in the summary, `final/` or `measured/`; empty for a row that is of
            the summary itself.
        heading: of the column.
        text: what the column shows, in words.
        judged: whether the best setting is printed in bold.
    """

    source: str
    heading: str
    text: str
    judged: bool = False


@dataclass(frozen=True)
class MetricRow:
    """A row of the metric table.

    Attributes:
        key: as it is logged, or a pattern with `*` for keys that have no row of their own.
        unit: of the logged value, in the words of docs/metrics.md; `-` for a pure number.
        section: of the page.
        title: above the page's chart.
        axis: at a figure's axis; the key stands there where `axis` is empty.
        panel: above the panel of :func:`fsamlab.figures.sharpness`, which draws the rows with a `panel`.
        percent: whether a fraction is shown in per cent.
        family: the values whose conventions the value shares (`table.FAMILIES`); None where no conventions exist.
        headline: place among the page's charts that are shown first, from 1 in each section; 0 for all other charts.
        terminal: whether `fsamlab measure` prints the value for several runs.
        better: which of two values is the better one; None where neither is.
        final: whether summary.json has the last row's value as `final/...`.
        ratio_of: keys of numerator and denominator. A mean of ratios is biased: the ratio of the means is shown.
        charts: of the W&B dashboard.
        columns: of the page's results.
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
