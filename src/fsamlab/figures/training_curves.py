"""Figures over training: any metric, and the methods of Figure 1 (arXiv 2403.12350).

Means are over finished runs; bands are one standard deviation (n - 1) over seeds.
"""

from __future__ import annotations

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fsamlab.figures.canvas import label_y, legend_below, line, look, new, seeds
from fsamlab.figures.labels import axis_label, value_label
from fsamlab.metrics import RATIOS, axis, factor, is_accuracy
from fsamlab.results.frames import averaged_columns, comparable, finished, having_key, history, methods_of, need
from fsamlab.results.methods import DASH_DOT, DASHED, DOTTED, SOLID, SPARE_COLOURS, Style, style
from fsamlab.results.settings import METHOD
from fsamlab.results.study import Runs

EARLY = 0.1  # share of training that does not set the axis of an accuracy, which rises steeply there
MARGIN = 2  # per cent, above and below accuracies
MOST_LINES = 12  # more lines cannot be told apart, and their legend would be higher than the axis


@look()
def curves(rows: pd.DataFrame, runs: Runs, key: str, by: str = METHOD, log_y: bool = False) -> Figure:
    """Return a metric over the epochs: a line for each value of `by`, with a band of one standard deviation.

    The axis of an accuracy starts below the values after the first tenth of training. A line ends at a cross where a
    run has no finite value any more, and the legend says so.

    Args:
        rows: the rows of a study; only finished runs are used.
        runs: a study of the same directories, or its frame of runs.
        key: a key of docs/metrics.md, for example `test/acc1` or `perturbation/cos_ema`.
        by: the method, or a config key in which runs of one method differ; runs without the key are left out.
        log_y: use a logarithmic axis; all means must be positive.

    Raises:
        ValueError: no row has the key, runs of one value of `by` differ in more than the seed, `by` has more than
            MOST_LINES values, or a mean is not positive with `log_y`.
    """
    figure, (axes,) = new()
    counts, notes = draw_curves(axes, rows, runs, key, by, log_y)
    legend_below(figure, axes, "\n".join([seeds(counts, key in RATIOS), *notes]))
    return figure


def draw_curves(
    axes: Axes, rows: pd.DataFrame, runs: Runs, key: str, by: str = METHOD, log_y: bool = False
) -> tuple[list[int], list[str]]:
    """Draw the lines of :func:`curves` into `axes`; return the numbers of seeds, and notes about the lines."""
    study = comparable(having_key(runs, by), [by])
    declared = study.headlines
    times = factor(key, declared)
    table, ends = history(rows, study, key, by)
    looks = styles(pd.Series(list(ends)), by)
    if len(looks) > MOST_LINES:
        raise ValueError(
            f"{by} has {len(looks)} values, a figure has room for {MOST_LINES} lines; choose some, "
            f"runs[runs[{by!r}].isin([...])], or draw the values at the end, figures.versus or figures.by_method"
        )
    if log_y and (table["mean"] <= 0).any():
        raise ValueError(f"{key} has means that are not positive: no logarithmic axis")
    notes = study.tie_words([by])
    for value, one in looks.items():
        here = table[table[by] == value]
        if len(here):
            line(axes, here["epoch"], times * here["mean"], times * here["std"], one)
        notes += end_of_line(axes, here, times, ends[value], one)
    if table["mean"].isna().any():
        notes.append(f"gaps: the mean of {averaged_columns(key)[1]} is not positive")
    if log_y:
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(axes.get_ylim()[0], times * float(table["mean"].min()) / 2))
    elif is_accuracy(key, declared):
        later = table[table["epoch"] >= EARLY * table["epoch"].max()]
        low, high = later["mean"] - later["std"].fillna(0), table["mean"] + table["std"].fillna(0)
        axes.set_ylim(times * float(low.min()) - MARGIN, times * float(high.max()) + MARGIN)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if axis(key, declared):
        label_y(axes, axis(key, declared))
    else:  # above the axes, since most keys are longer than the axis is high
        axes.set_title(axis_label(key, declared))
    return list(table["n"]), notes


def end_of_line(axes: Axes, table: pd.DataFrame, factor: int, end: float, one: Style) -> list[str]:
    """Mark a line that ends before its runs do with a cross, and return notes for the legend."""
    if table.empty:
        return [f"no line for {one.label}: no epoch at which all its runs have finite values"]
    last = table.iloc[-1]
    if last["epoch"] == end:
        return []
    axes.plot([last["epoch"]], [factor * last["mean"]], "x", color=one.colour, markersize=6, markeredgewidth=1.4)
    return [f"× {one.label} ends at epoch {last['epoch']:g} of {end:g}: then a run has no (finite) value"]


def styles(values: pd.Series, by: str) -> dict[object, Style]:
    """Return {value: look} for the sorted values of a config key; methods have their own looks."""
    if by == METHOD:
        return {method: style(method) for method in methods_of(pd.DataFrame({METHOD: values}))}
    ordered = sorted(values.unique())
    looks = zip(cycle(SPARE_COLOURS), cycle((SOLID, DASHED, DOTTED, DASH_DOT)), cycle("osD^v<>"))
    return {v: Style(value_label(by, v), *look) for v, look in zip(ordered, looks)}


@look()
def decomposition(runs: Runs, rows: pd.DataFrame) -> Figure:
    """Return the methods of Figure 1 over training: the headline metric on test data.

    The runs come from `+sweeps=fig1_decomposition`. Figure 1 has sam, sam_full (along the full gradient) and sam_noise
    (along the batch gradient without its projection on the full gradient), with bars for the accuracy. sgd and
    sam_component (along that projection) are additions, drawn where they have runs. With diagnostics=paper a second
    panel shows the share of the full gradient in the batch gradient, abs(Pi)^2 / abs(g_B)^2, in per cent; the rest is
    noise.

    Raises:
        ValueError: sam or sam_noise has no finished run, or both sam_full and sam_component have none.
    """
    of_figure = ["sam", "sam_full", "sam_noise"]
    shown = [*of_figure, "sgd", "sam_component"]
    methods = set(finished(runs).runs[METHOD])
    # Runs of earlier versions have the projection in place of the full gradient.
    need(runs, ["sam", "sam_noise"] if "sam_component" in methods else of_figure, "fig1_decomposition")
    study = comparable(runs, [METHOD], shown)
    rows = rows[rows["directory"].isin(study.runs["directory"])] if len(rows) else rows
    key = "perturbation/full_share"
    measured = any(column in rows and rows[column].notna().any() for column in (key, f"measured/{key}"))
    figure, panels = new(2 if measured else 1)
    counts, notes = draw_curves(panels[0], rows, study, f"test/{study.headline.name}")
    if measured:
        shares, more = draw_curves(panels[1], rows, study, key)
        counts, notes = counts + shares, list(dict.fromkeys(notes + more))
        label_y(panels[1], "share of the full gradient (%)")
        panels[1].set_ylim(bottom=0)
        panels[1].set_title(r"in the batch gradient, of $|g_B|^2$; the rest is noise")
    if "sam_full" not in methods:
        notes.append("SAM-full, which Figure 1 of the paper has, has no run here")
    legend_below(figure, panels[0], "\n".join([seeds(counts), *notes]))
    return figure
