"""Figures of measured quantities: quality of the EMA, friendliness, sharpness and curvature.

Means are over finished runs; bars and bands are one standard deviation (n - 1) over seeds. Values that were measured
under different conventions (docs/metrics.md) are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fsamlab.figures.accuracy import draw_dots
from fsamlab.figures.canvas import ACROSS, heading, legend_below, line, look, new, panel_grid, seeds
from fsamlab.figures.training_curves import end_of_line
from fsamlab.metrics import DIRECTIONS, RATIOS, ROWS, of
from fsamlab.results.frames import (
    comparable,
    end_columns,
    history,
    mean_std,
    means,
    methods_of,
    why_none,
)
from fsamlab.results.methods import BLUE, DASHED, DOTTED, GREY, SOLID, VERMILION, Style, style
from fsamlab.results.settings import METHOD
from fsamlab.results.study import Runs

LAMBDA = "optimizer.lmbda"
EMA_QUALITY = {
    "perturbation/cos_ema_full": Style("measured cos(m, g)", VERMILION, SOLID, "P"),
    "perturbation/cos_ema_full_predicted": Style("if w stood still, batches as drawn", BLUE, DASHED, "o"),
    "perturbation/cos_ema_full_independent": Style("if w stood still, independent batches", BLUE, DOTTED, "s"),
    "perturbation/cos_batch_full": Style("one batch, cos($g_B$, g)", GREY, SOLID, "d"),
}
WHOSE: dict[str, tuple[str, float, dict[str, Any]]] = {  # samples of the loss -> label, place, shade
    "batch": ("its batch", -0.19, {"alpha": 1.0}),
    "other": ("all other samples", 0.19, {"alpha": 0.45, "hatch": "////"}),
}
SHARPNESS = tuple(row.key for row in ROWS if row.panel)


def ema_table(rows: pd.DataFrame, runs: Runs, method: str = "fsam") -> pd.DataFrame:
    """Return the quality of the EMA in long form: optimizer.lmbda, epoch, key (of EMA_QUALITY), mean, std, n.

    Raises:
        ValueError: the method has no finished run or no EMA, or was not measured (diagnostics=paper).
    """
    parts = _ema_histories(rows, runs, method)
    return pd.concat([table.assign(key=key) for key, (table, _) in parts.items()], ignore_index=True)


def _ema_histories(rows: pd.DataFrame, runs: Runs, method: str) -> dict[str, tuple[pd.DataFrame, dict[object, float]]]:
    study = comparable(runs, [LAMBDA], [method])
    return {key: history(rows, study, key, LAMBDA) for key in EMA_QUALITY}


@look()
def ema_quality(rows: pd.DataFrame, runs: Runs, method: str = "fsam") -> Figure:
    """Return how well the EMA estimates the full gradient over training, a panel for each lambda.

    The lines are the measured cos(m_{t-1}, g), the two predictions for weights that do not move, and the cosine of one
    batch (docs/ema_quality.md). The runs come from `+sweeps=ema_quality`, or are any runs with diagnostics=paper.

    Raises:
        ValueError: as :func:`ema_table`.
    """
    parts = _ema_histories(rows, runs, method)
    table = pd.concat([part for part, _ in parts.values()])
    lambdas = sorted(table[LAMBDA].unique())
    figure, panels = new(len(lambdas), height=2.6, sharey=True)
    notes: list[str] = []
    for axes, lmbda in zip(panels, lambdas):
        for key, one in EMA_QUALITY.items():
            part, ends = parts[key]
            here = part[part[LAMBDA] == lmbda]
            line(axes, here["epoch"], here["mean"], here["std"], one)
            if lmbda in ends:
                notes += end_of_line(axes, here, 1, ends[lmbda], one)
        axes.set_title(rf"$\lambda$ = {lmbda:g}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.axhline(0, color=GREY, linewidth=0.6)
    lowest = float((table["mean"] - table["std"].fillna(0)).min())
    panels[0].set_ylim(min(0.0, 1.05 * lowest), 1)
    panels[0].set_ylabel("cosine")
    tied = comparable(runs, [LAMBDA], [method]).tie_words([LAMBDA])
    title = "\n".join([seeds(table["n"]), *tied, *dict.fromkeys(notes)])
    legend_below(figure, panels[0], title, columns=1 if len(panels) == 1 else 2)
    return figure


@look()
def friendliness(runs: Runs, method: str = "fsam") -> Figure:
    """Return how a step along the direction of each variant changes the loss of its batch, and of all other samples.

    The bars are rise_batch_* and rise_other_* in nats, at the last measured weights of the networks that `method`
    trained. The runs are any runs with diagnostics=paper. Directions that were not measured are left out; the direction
    of fsam needs an EMA, which a finished run keeps with train.keep_state=true.

    Raises:
        ValueError: the method has no finished run, or its friendliness was not measured.
    """
    done = comparable(runs, [METHOD], [method]).runs
    keys = [f"perturbation/rise_{who}_{d}" for d in DIRECTIONS for who in ("batch", "other")]
    columns = end_columns(done, keys)
    source = "measured/" if all(c.startswith("measured/") for c in columns.values()) else ""
    at = f"{source}diagnostics/perturbation_rho"
    if at not in done or done[at].isna().all():
        raise ValueError(f"no run has {at}, the radius at which the rises were measured")
    radius = done[at].dropna().iloc[0]  # the only value: end_columns refuses several
    directions = [d for d in DIRECTIONS if f"perturbation/rise_batch_{d}" in columns]
    figure, (axes,) = new(height=0.9 + 0.32 * len(directions))
    counts = []
    for place, direction in enumerate(directions):
        for who, (_, shift, shade) in WHOSE.items():
            (row,) = mean_std(done, [METHOD], columns[f"perturbation/rise_{who}_{direction}"]).to_dict("records")
            bar = {"xerr": row["std"], "error_kw": {"capsize": 2, "elinewidth": 0.8}} if row["n"] > 1 else {}
            axes.barh(place + shift, row["mean"], 0.36, color=style(direction).colour, **shade, **bar)
            counts.append(row["n"])
    for name, _, shade in WHOSE.values():
        axes.barh([0], [0], color=GREY, label=name, **shade)
    axes.set_yticks(range(len(directions)), [style(d).label for d in directions])
    axes.set_ylim(len(directions) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"rise of the loss, step {radius:g} (nats)")
    axes.set_title(f"trained with {style(method).label}")
    legend_below(figure, axes, seeds(counts))
    return figure


@look()
def sharpness(runs: Runs, keys: Sequence[str] = SHARPNESS) -> Figure:
    """Return sharpness and curvature at the end of training by method, a panel for each measured quantity.

    The runs need diagnostics=full, or `fsamlab measure RUNS diagnostics=full` afterwards. Sharpness is in nats,
    curvature in nats per squared unit of weight.

    Raises:
        ValueError: no key was measured, or the values were measured under different conventions.
    """
    study = comparable(runs, [METHOD])
    done = study.runs
    columns = end_columns(done, keys)
    methods = methods_of(done[done[list(columns.values())].notna().any(axis=1)])
    tables = {key: means(done, [METHOD], column).dropna(subset="mean") for key, column in columns.items()}
    if all(table.empty for table in tables.values()):
        raise ValueError(why_none(done, next(iter(columns.values()))))
    figure, panels = panel_grid(len(columns), 0.6 + 0.17 * len(methods))
    counts: list[int] = []
    for place, (axes, (key, column)) in enumerate(zip(panels, columns.items())):
        draw_dots(axes, tables[key], column, methods, done)
        axes.set_title((of(key).panel or key) + (" (ratio of the means)" if column in RATIOS else ""))
        axes.set_xlabel(of(key).unit.replace("^2", "²"))
        if place % ACROSS:
            axes.tick_params(axis="y", labelleft=False)
        counts += list(tables[key]["n"])
    over = seeds(counts, all(column in RATIOS for column in columns.values()))
    heading(figure, "\n".join([over, *study.where(done[METHOD].isin(methods)).tie_words([METHOD])]))
    return figure
