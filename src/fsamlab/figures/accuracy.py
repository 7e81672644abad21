"""Accuracy by method, radius and batch size (arXiv 2403.12350, Figures 2 to 4 and A5).

Means are over finished runs; bars and bands are one standard deviation (n - 1) over seeds. `metric` is a column of
`collect`: None is the headline metric of the runs' task on test data at the end, which selects nothing; for accuracies
AT_END is the same, and AT_BEST is at the epoch that the validation split chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fsamlab.figures.canvas import BAND, dashes, heading, label_y, legend_below, line, look, new, panel_grid, seeds
from fsamlab.figures.labels import axis_label, value_label
from fsamlab.metrics import RATIOS, Declared, factor
from fsamlab.results.frames import averaged_columns, comparable, having_key, mean_std, methods_of, need, with_values
from fsamlab.results.methods import GREY, style
from fsamlab.results.settings import METHOD, values_of
from fsamlab.results.study import Runs, Study

GIVEN_BY = {  # key -> the sweep of sweeps/ that varies it
    "optimizer.rho": "fig3_rho",
    "optimizer.sigma": "ablation_sigma",
    "optimizer.lmbda": "ablation_lambda",
    "optimizer.ascent_batch_size": "fig2c_perturbation_batch",
    "data.batch_size": "fig4_batch_size",
    "data.label_noise": "table_label_noise",
}
DOUBLING = 1.5  # the axis is logarithmic if all ratios of neighbouring values are at least this


# ------------------------------------------------------------------------------------ by method


@look()
def by_method(runs: Runs, metric: str | None = None, panel: str | None = None) -> Figure:
    """Return a metric of `collect` by method, as mean and standard deviation.

    With `panel`, a config key, each value of the key has a panel, and runs without the key are left out.

    Raises:
        ValueError: no finished run, or runs of one method (and panel) that differ in more than the seed.
    """
    by = [METHOD] if panel is None else [panel, METHOD]
    study = comparable(having_key(runs, panel), by)
    metric = metric or study.headline.at_end
    done = study.runs
    table = mean_std(done, by, metric)
    shown = study.where(done[averaged_columns(metric)[0]].notna())
    having = shown.runs
    values = [None] if panel is None else sorted(having[panel].unique(), key=lambda v: (v != "sgd", v))  # SGD first
    lines = having.groupby(panel)[METHOD].nunique().max() if panel else having[METHOD].nunique()
    figure, panels = panel_grid(len(values), 0.5 + 0.19 * lines)
    for axes, value in zip(panels, values):
        table_here, runs_here, having_here = (
            part if value is None else part[part[panel] == value] for part in (table, done, having)
        )
        draw_dots(axes, table_here, metric, methods_of(having_here), runs_here, study.headlines)
        if value is not None:
            axes.set_title(value_label(str(panel), value))
    if len(panels) == 1:
        panels[0].set_xlabel(axis_label(metric, study.headlines))
    else:  # as wide as a panel
        figure.supxlabel(axis_label(metric, study.headlines), fontsize=8)
    heading(figure, "\n".join([seeds(table["n"], metric in RATIOS), *shown.tie_words(by)]))
    return figure


def draw_dots(
    axes: Axes,
    table: pd.DataFrame,
    metric: str,
    methods: Sequence[str],
    runs: pd.DataFrame,
    declared: Declared = (),
) -> None:
    """Draw one line for each of `methods`, the first on top: the mean, with a bar of one standard deviation.

    If the mean is over fewer runs than the method has among `runs`, its n stands above the dot. If a method has no
    mean, the reason stands in its line.
    """
    num_runs, times = runs[METHOD].value_counts(), factor(metric, declared)
    for row in table.to_dict("records"):
        one, bar = style(row[METHOD]), None if np.isnan(row["std"]) else times * row["std"]
        mean, place = times * row["mean"], methods.index(row[METHOD])
        (dot, *_) = axes.errorbar(mean, place, xerr=bar, color=one.colour, capsize=2, label=one.label)
        dot.set(linestyle="none", marker=one.marker)  # fmt= does not know the markers that are formulas
        if row["n"] < num_runs[row[METHOD]]:
            beside(axes, mean, place, f"n = {row['n']}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(methods)), [style(method).label for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    say_missing(axes, table, metric, methods, runs)


def beside(axes: Axes, x: float, place: int, text: str) -> None:
    """Write a short text just above a dot."""
    axes.annotate(text, (x, place), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", size=5.5)


def say_missing(axes: Axes, table: pd.DataFrame, metric: str, methods: Sequence[str], runs: pd.DataFrame) -> None:
    """Write the reason into the lines of methods that were measured but have no mean."""
    for place, method in enumerate(methods):
        here = runs[runs[METHOD] == method]
        if method not in set(table[METHOD]) and here[averaged_columns(metric)[0]].notna().any():
            text = "not positive" if len(with_values(here, metric)) else "not finite"
            axes.text(0.5, place, text, transform=axes.get_yaxis_transform(), ha="center", va="center", size=6)
    if table.empty:
        axes.set_xticks([])


def components(runs: Runs, metric: str | None = None) -> Figure:
    """Return Figure 2a: SAM, SAM-full and F-SAM, a panel for each base optimizer.

    Of `+sweeps=fig2a_components_sgd` and `+sweeps=fig2a_components_adamw`, whose runs may be given together. SAM-full
    is sam_full (the exact full gradient) or sam_full_ema (its estimate).

    Raises:
        ValueError: sam, fsam or both of sam_full and sam_full_ema have no finished run.
    """
    need(runs, ["sam", "fsam"], "fig2a_components_sgd")
    study = Study.of(runs)
    if not set(study.runs[METHOD]) & {"sam_full", "sam_full_ema"}:
        need(runs, ["sam_full_ema"], "fig2a_components_sgd")
    shown = study.runs[METHOD].isin(["sgd", "adamw", "sam", "sam_full", "sam_full_ema", "fsam"])
    return by_method(study.where(shown), metric, panel="optimizer.base")


def other_batch(runs: Runs, metric: str | None = None) -> Figure:
    """Return Figure 2b: the perturbation from another batch (sam_db) beside SAM and SGD.

    Of `+sweeps=fig2b_other_batch`.

    Raises:
        ValueError: sam or sam_db has no finished run.
    """
    need(runs, ["sam", "sam_db"], "fig2b_other_batch")
    study = Study.of(runs)
    return by_method(study.where(study.runs[METHOD].isin(["sgd", "sam", "sam_db"])), metric)


# ------------------------------------------------------------------------- against a hyper-parameter


@look()
def versus(runs: Runs, key: str, metric: str | None = None) -> Figure:
    """Return a metric of `collect` against a numeric config key, a line for each method.

    A method without the key (SGD has no rho, SAM no ascent_batch_size) is a horizontal line. The axis is logarithmic to
    base 2 if the values grow by factors.

    Raises:
        ValueError: the key has fewer than two values, or runs with the same method and value differ in more than the
            seed.
    """
    study = comparable(runs, [METHOD, key])
    metric = metric or study.headline.at_end
    times = factor(metric, study.headlines)
    done = study.runs
    if pd.to_numeric(done[key], errors="coerce").isna().all():
        raise ValueError(f"{key} is no number; by_method(runs, panel={key!r}) has a panel for each value")
    done = done.assign(**{key: values_of(done, key)})
    table = mean_std(done, [METHOD, key], metric)
    fixed = table[key].isna()
    values = sorted(table.loc[~fixed, key].unique())
    if len(values) < 2:
        sweep = f"; `python launch.py -m +sweeps={GIVEN_BY[key]}` varies it" if key in GIVEN_BY else ""
        raise ValueError(f"{key} has fewer than two values in these runs{sweep}")
    figure, (axes,) = new()
    for method in methods_of(table):
        one, here = style(method), table[METHOD] == method
        varied = table[here & ~fixed]
        if len(varied):
            line(axes, varied[key], times * varied["mean"], times * varied["std"], one, marker=True)
        for _, row in table[here & fixed].iterrows():
            mean, std = times * row["mean"], times * row["std"]
            axes.axhline(mean, color=one.colour, linestyle=dashes(one), label=one.label)
            if row["n"] > 1:
                axes.axhspan(mean - std, mean + std, color=one.colour, alpha=BAND, linewidth=0)
    if values[0] > 0 and min(b / a for a, b in pairwise(values)) >= DOUBLING:
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{v:g}" for v in values])
        axes.set_xticks([], minor=True)
    axes.set_xlabel(axis_label(key))
    label_y(axes, axis_label(metric, study.headlines))
    shown = study.where(done[averaged_columns(metric)[0]].notna())
    legend_below(figure, axes, "\n".join([seeds(table["n"], metric in RATIOS), *shown.tie_words([METHOD, key])]))
    return figure


def ascent_batch(runs: Runs, metric: str | None = None) -> Figure:
    """Return Figures 2c and A5: accuracy against the batch size of the perturbation, the descent's fixed.

    Of `+sweeps=fig2c_perturbation_batch`. A thin line marks the descent batch: there sam_batch is SAM.

    Raises:
        ValueError: see :func:`versus`; no finished run of sam_batch.
    """
    need(runs, ["sam_batch"], "fig2c_perturbation_batch")
    study = Study.of(runs)
    study = study.where(study.runs[METHOD].isin(["sgd", "sam", "sam_batch"]))
    figure = versus(study, "optimizer.ascent_batch_size", metric)
    (axes,) = figure.axes
    for size in study.runs.loc[study.runs[METHOD] == "sam_batch", "data.batch_size"].unique():
        axes.axvline(size, color=GREY, linewidth=0.8, zorder=0.5)
        axes.annotate("descent batch", (size, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", size=7)
    return figure


def rho(runs: Runs, metric: str | None = None) -> Figure:
    """Return Figure 3: accuracy against the radius; of `+sweeps=fig3_rho`. Errors of :func:`versus`."""
    return versus(runs, "optimizer.rho", metric)


def batch_size(runs: Runs, metric: str | None = None) -> Figure:
    """Return Figure 4: accuracy against the batch size; of `+sweeps=fig4_batch_size`. Errors of :func:`versus`."""
    return versus(runs, "data.batch_size", metric)
