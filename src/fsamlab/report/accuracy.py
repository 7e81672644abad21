"""Accuracy by method, radius and batch size (arXiv 2403.12350, Figures 1 to 4 and A5), and any metric over training.

Means are over finished runs; bars and bands are one standard deviation (n - 1) over seeds. `metric` is a column of
`collect`: AT_END, which selects nothing, or AT_BEST, at the epoch that the validation split chose.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle, pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fsamlab.report.canvas import BAND, dashes, grid, heading, legend_below, line, look, new, seeds
from fsamlab.report.frames import AT_END, METHOD, comparable, mean_std, methods_of, series
from fsamlab.report.labels import AXIS_LABELS, axis_label, scale, value_label
from fsamlab.report.style import DASH_DOT, DASHED, DOTTED, GREY, SOLID, SPARE_COLOURS, Style, style

GIVEN_BY = {  # the sweep of sweeps/ that varies a key
    "optimizer.rho": "fig3_rho",
    "optimizer.sigma": "ablation_sigma",
    "optimizer.lmbda": "ablation_lambda",
    "optimizer.ascent_batch_size": "fig2c_perturbation_batch",
    "data.batch_size": "fig4_batch_size",
    "data.label_noise": "table_label_noise",
}
EARLY = 0.1  # of training: accuracies rise from chance there, and would leave no room for what follows
AXIS_CHARACTERS = 30  # of a label beside an axis of the default height
DOUBLING = 1.5  # values whose ratios are above this go on a logarithmic axis


def need(runs: pd.DataFrame, methods: Sequence[str], sweep: str) -> None:
    """Refuse runs without all of `methods`.

    Raises:
        ValueError: naming what is missing and the sweep that makes it.
    """
    finished = set(runs.loc[runs["status"] == "finished", METHOD]) if len(runs) else set()
    missing = [method for method in methods if method not in finished]
    if missing:
        raise ValueError(
            f"no finished run of {', '.join(missing)}; `python launch.py -m +sweeps={sweep}` makes all that is shown"
        )


# ---------------------------------------------------------------------------------- over training


@look()
def curves(rows: pd.DataFrame, runs: pd.DataFrame, key: str, by: str = METHOD) -> Figure:
    """Return a metric over the epochs, a line for each value of `by`: mean, and a band of one standard deviation.

    The axis of an accuracy starts below the values after the first tenth of training.

    Args:
        rows: as `collect_rows` returns them; finished runs only enter.
        runs: as `collect` returns them, of the same directories.
        key: any metric's key of docs/metrics.md, `test/acc1` or `perturbation/cos_ema`.
        by: the method, or a config key in which runs of one method differ; runs without the key are left out.

    Raises:
        ValueError: no row has the key, or runs of one value of `by` differ in more than the seed.
    """
    figure, (axes,) = new()
    counts = draw_curves(axes, rows, runs, key, by)
    legend_below(figure, axes, seeds(counts))
    return figure


def draw_curves(axes: Axes, rows: pd.DataFrame, runs: pd.DataFrame, key: str, by: str = METHOD) -> list[int]:
    """Draw what :func:`curves` returns into `axes`; return the numbers of seeds."""
    table = series(rows, runs, key, by)
    for value, one in styles(table[by], by).items():
        here = table[table[by] == value]
        line(axes, here["epoch"], scale(key) * here["mean"], scale(key) * here["std"], one)
    if key.endswith("acc1"):
        later = table[table["epoch"] >= EARLY * table["epoch"].max()]
        axes.set_ylim(bottom=scale(key) * float((later["mean"] - later["std"].fillna(0)).min()) - 2)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if key in AXIS_LABELS:
        axes.set_ylabel(AXIS_LABELS[key])
    else:  # most keys are longer than the axis
        axes.set_title(axis_label(key))
    return list(table["n"])


def styles(values: pd.Series, by: str) -> dict[object, Style]:
    """Return {value: look} for the values of a config key in order; a method's own where they are methods."""
    if by == METHOD:
        return {method: style(method) for method in methods_of(pd.DataFrame({METHOD: values}))}
    ordered = sorted(values.unique())
    looks = zip(cycle(SPARE_COLOURS), cycle((SOLID, DASHED, DOTTED, DASH_DOT)), cycle("osD^v<>"))
    return {v: Style(value_label(by, v), *look) for v, look in zip(ordered, looks)}


@look()
def decomposition(runs: pd.DataFrame, rows: pd.DataFrame) -> Figure:
    """Return Figure 1: test accuracy over training by what is perturbed along; of `+sweeps=fig1_decomposition`.

    Methods: sgd, sam, sam_component (the batch gradient's projection on the full gradient), sam_noise (what remains).
    Where it was measured (diagnostics=paper), a second panel has the share of the full gradient in the batch
    gradient, abs(Pi)^2 / abs(g_B)^2 in per cent; noise is the rest of 100.

    Raises:
        ValueError: one of sam, sam_component, sam_noise has no finished run.
    """
    shown = ["sgd", "sam", "sam_component", "sam_noise"]
    need(runs, shown[1:], "fig1_decomposition")
    runs = comparable(runs, [METHOD], shown)
    rows = rows[rows["directory"].isin(runs["directory"])] if len(rows) else rows
    key = "perturbation/full_share"
    measured = any(column in rows and rows[column].notna().any() for column in (key, f"measured/{key}"))
    figure, panels = new(2 if measured else 1)
    counts = draw_curves(panels[0], rows, runs, "test/acc1")
    if measured:
        counts += draw_curves(panels[1], rows, runs, key)
        panels[1].set_ylabel("share of the full gradient (%)")
        panels[1].set_ylim(bottom=0)
        panels[1].set_title(r"in the batch gradient, of $|g_B|^2$; the rest is noise")
    legend_below(figure, panels[0], seeds(counts))
    return figure


# ------------------------------------------------------------------------------------ by method


@look()
def by_method(runs: pd.DataFrame, metric: str = AT_END, panel: str | None = None) -> Figure:
    """Return a metric of `collect` by method, mean and standard deviation; a panel for each value of a config key.

    Runs without that key are left out.

    Raises:
        ValueError: no finished run, or runs of one method (and panel) that differ in more than the seed.
    """
    by = [METHOD] if panel is None else [panel, METHOD]
    if panel in runs:
        runs = runs[runs[panel].notna()]
    table = mean_std(comparable(runs, by), by, metric)
    values = [None] if panel is None else sorted(table[panel].unique(), key=lambda v: (v != "sgd", v))  # SGD first
    lines = max(1, table.groupby(panel)[METHOD].nunique().max() if panel else len(table))
    figure, panels = grid(len(values), 0.5 + 0.19 * lines)
    for axes, value in zip(panels, values):
        here = table if value is None else table[table[panel] == value]
        draw_dots(axes, here, metric, methods_of(here))
        if value is not None:
            axes.set_title(value_label(str(panel), value))
    if len(panels) == 1:
        panels[0].set_xlabel(axis_label(metric))
    else:  # as wide as a panel
        figure.supxlabel(axis_label(metric), fontsize=8)
    heading(figure, seeds(table["n"]))
    return figure


def draw_dots(axes: Axes, table: pd.DataFrame, metric: str, methods: Sequence[str]) -> None:
    """Draw one line for each of `methods`, the first on top: its mean with a bar of one standard deviation."""
    for row in table.to_dict("records"):
        one, bar = style(row[METHOD]), None if np.isnan(row["std"]) else scale(metric) * row["std"]
        mean, place = scale(metric) * row["mean"], methods.index(row[METHOD])
        axes.errorbar(mean, place, xerr=bar, fmt=one.marker, color=one.colour, capsize=2, label=one.label)
    axes.set_yticks(range(len(methods)), [style(method).label for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def components(runs: pd.DataFrame, metric: str = AT_END) -> Figure:
    """Return Figure 2a: SAM, SAM-full and F-SAM, a panel for each base optimizer.

    Of `+sweeps=fig2a_components_sgd` and `+sweeps=fig2a_components_adamw`, whose runs may be given together. SAM-full
    is sam_full (the exact full gradient) or sam_full_ema (its estimate).

    Raises:
        ValueError: sam, fsam or both of sam_full and sam_full_ema have no finished run.
    """
    need(runs, ["sam", "fsam"], "fig2a_components_sgd")
    if not set(runs[METHOD]) & {"sam_full", "sam_full_ema"}:
        need(runs, ["sam_full_ema"], "fig2a_components_sgd")
    shown = runs[runs[METHOD].isin(["sgd", "adamw", "sam", "sam_full", "sam_full_ema", "fsam"])]
    return by_method(shown, metric, panel="optimizer.base")


def other_batch(runs: pd.DataFrame, metric: str = AT_END) -> Figure:
    """Return Figure 2b: the perturbation from another batch (sam_db) beside SAM and SGD.

    Of `+sweeps=fig2b_other_batch`.

    Raises:
        ValueError: sam or sam_db has no finished run.
    """
    need(runs, ["sam", "sam_db"], "fig2b_other_batch")
    return by_method(runs[runs[METHOD].isin(["sgd", "sam", "sam_db"])], metric)


# ------------------------------------------------------------------------- against a hyper-parameter


@look()
def versus(runs: pd.DataFrame, key: str, metric: str = AT_END) -> Figure:
    """Return a metric of `collect` against a numeric config key, a line for each method.

    A method without the key (SGD has no rho, SAM no ascent_batch_size) is a horizontal line. Values that grow by
    factors go on a logarithmic axis to base 2.

    Raises:
        ValueError: a key with fewer than two numbers, or runs of one method and value that differ in more than the
            seed.
    """
    done = comparable(runs, [METHOD, key])
    done = done.assign(**{key: pd.to_numeric(done[key], errors="coerce")})  # a column with None may hold objects
    if done[key].isna().all():
        raise ValueError(f"{key} is no number; by_method(runs, panel={key!r}) has a panel for each value")
    table = mean_std(done, [METHOD, key], metric)
    unperturbed = set(done.loc[done["optimizer.ascent"] == "none", METHOD]) if "optimizer.ascent" in done else set()
    fixed = table[key].isna() | (table[METHOD].isin(unperturbed) & key.startswith("optimizer."))
    values = sorted(table.loc[~fixed, key].unique())
    if len(values) < 2:
        sweep = f"; `python launch.py -m +sweeps={GIVEN_BY[key]}` varies it" if key in GIVEN_BY else ""
        raise ValueError(f"{key} has fewer than two values in these runs{sweep}")
    figure, (axes,) = new()
    for method in methods_of(table):
        one, here = style(method), table[METHOD] == method
        varied = table[here & ~fixed]
        if len(varied):
            line(axes, varied[key], scale(metric) * varied["mean"], scale(metric) * varied["std"], one, marker=True)
        for _, row in table[here & fixed].iterrows():
            mean, std = scale(metric) * row["mean"], scale(metric) * row["std"]
            axes.axhline(mean, color=one.colour, linestyle=dashes(one), label=one.label)
            if row["n"] > 1:
                axes.axhspan(mean - std, mean + std, color=one.colour, alpha=BAND, linewidth=0)
    if values[0] > 0 and min(b / a for a, b in pairwise(values)) >= DOUBLING:
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{v:g}" for v in values])
        axes.set_xticks([], minor=True)
    axes.set_xlabel(axis_label(key))
    axes.set_ylabel(textwrap.fill(axis_label(metric), AXIS_CHARACTERS))
    legend_below(figure, axes, seeds(table["n"]))
    return figure


def ascent_batch(runs: pd.DataFrame, metric: str = AT_END) -> Figure:
    """Return Figures 2c and A5: accuracy against the batch size of the perturbation, the descent's fixed.

    Of `+sweeps=fig2c_perturbation_batch`. A thin line marks the descent batch: there sam_batch is SAM.

    Raises:
        ValueError: see :func:`versus`; no finished run of sam_batch.
    """
    need(runs, ["sam_batch"], "fig2c_perturbation_batch")
    shown = runs[runs[METHOD].isin(["sgd", "sam", "sam_batch"])]
    figure = versus(shown, "optimizer.ascent_batch_size", metric)
    (axes,) = figure.axes
    for size in shown.loc[shown[METHOD] == "sam_batch", "data.batch_size"].unique():
        axes.axvline(size, color=GREY, linewidth=0.8, zorder=0.5)
        axes.annotate("descent batch", (size, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", size=7)
    return figure


def rho(runs: pd.DataFrame, metric: str = AT_END) -> Figure:
    """Return Figure 3: accuracy against the radius; of `+sweeps=fig3_rho`. Errors of :func:`versus`."""
    return versus(runs, "optimizer.rho", metric)


def batch_size(runs: pd.DataFrame, metric: str = AT_END) -> Figure:
    """Return Figure 4: accuracy against the batch size; of `+sweeps=fig4_batch_size`. Errors of :func:`versus`."""
    return versus(runs, "data.batch_size", metric)
