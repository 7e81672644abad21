"""Tables of a sweep as Markdown: accuracies, costs, measured values and the conventions they were measured under.

Means are over finished runs, standard deviations with n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from fsamlab.report.frames import (
    AT_BEST,
    AT_END,
    METHOD,
    advice,
    comparable,
    conventions,
    end_columns,
    finished,
    mean_std,
    methods_of,
)
from fsamlab.report.measured import SHARPNESS
from fsamlab.report.style import label
from fsamlab.sweep.results import as_text, by_setting, clearly_ahead, conditions_of, plain, varied_keys
from fsamlab.terminal import percent_spread

HEADINGS = {AT_BEST: "at best validation epoch", AT_END: "at the end"}
LABEL = "method"  # a column: the method's name and those of its parameters that vary


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], num_text: int = 1) -> str:
    """Return a Markdown table; all columns after the first `num_text` are aligned to the right."""
    rules = ["---" if i < num_text else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *lines))


def accuracy_table(runs: pd.DataFrame) -> str:
    """Return test accuracies in per cent: mean ± standard deviation over seeds, and n.

    Where only methods and their parameters vary, a line for each; where data, model or training vary too (the paper's
    tables of CIFAR and of label noise), a line for each of these conditions and a column for each method. The best of a
    condition is bold where its lead over the second exceeds the larger of the two standard deviations, both known (n of
    2 or more). `at best validation epoch` is there for runs that held out a validation split.

    Raises:
        ValueError: no finished run, none with a test accuracy, or a seed that is there twice.
    """
    keys = varied_keys(finished(runs))
    done = with_labels(comparable(runs, keys), [key for key in keys if key.startswith("optimizer.")])
    metrics = [metric for metric in HEADINGS if metric in done and done[metric].notna().any()]
    if not metrics:
        raise ValueError(f"no run has {AT_END}; {advice(AT_END)}")
    conditions = conditions_of(keys)
    if not conditions:
        return "Test accuracy in %, mean ± standard deviation over n seeds\n\n" + by_line(done, metrics)
    return "\n\n".join(by_column(done, conditions, metric) for metric in metrics)


def with_labels(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return runs with a column LABEL, in the order of methods: `SAM`, or `SAM, rho 0.1` where its rho varies."""
    parts = []
    for method in methods_of(runs):
        here = runs[runs[METHOD] == method]
        varied = [key for key in keys if key != METHOD and as_text(here[key]).nunique() > 1]
        here = here.sort_values(varied) if varied else here
        texts = [
            [f"{key.removeprefix('optimizer.')} {plain(row[key])}" for key in varied] for _, row in here.iterrows()
        ]
        parts.append(here.assign(**{LABEL: [", ".join([label(method), *text]) for text in texts]}))
    return pd.concat(parts)


def by_line(runs: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Return a table with a line for each method and a column for each metric."""
    columns = [cells(mean_std(runs, [LABEL], metric)) for metric in metrics]
    n = runs[LABEL].value_counts()
    lines = [[name, str(n[name]), *(c.get(name, "-") for c in columns)] for name in runs[LABEL].unique()]
    return markdown([LABEL, "n", *(HEADINGS[metric] for metric in metrics)], lines)


def by_column(runs: pd.DataFrame, conditions: list[str], metric: str) -> str:
    """Return a table with a line for each condition and a column for each method; n in the title, or in each cell."""
    table, names = mean_std(runs, [*conditions, LABEL], metric), list(runs[LABEL].unique())
    same_n = table["n"].nunique() == 1
    lines = []
    for _, here in table.groupby(conditions, dropna=False):
        found = cells(here, with_n=not same_n)
        lines.append([*(plain(here.iloc[0][key]) for key in conditions), *(found.get(name, "-") for name in names)])
    over = f"{table['n'].iloc[0]} seeds" if same_n else "(n) seeds"
    title = f"Test accuracy in % {HEADINGS[metric]}, mean ± standard deviation over {over}"
    header = [*(key.removesuffix(".name") for key in conditions), *names]
    return f"{title}\n\n{markdown(header, lines, len(conditions))}"


def cells(table: pd.DataFrame, with_n: bool = False) -> dict[str, str]:
    """Return {label: text} for the methods of one condition, the best in bold where it is clearly ahead."""
    ranked = table.sort_values("mean", ascending=False)
    texts = {}
    for _, row in ranked.iterrows():
        texts[row[LABEL]] = percent_spread(row["mean"], row["std"]) + (f" ({row['n']})" if with_n else "")
    if len(ranked) > 1:
        first, second = ranked.iloc[0], ranked.iloc[1]
        if clearly_ahead(first["mean"], first["std"], second["mean"], second["std"]):
            texts[first[LABEL]] = f"**{texts[first[LABEL]]}**"
    return texts


def cost_table(runs: pd.DataFrame) -> str:
    """Return the time of a step by setting, in ms: the median over runs, and its ratio to SGD's; of `+sweeps=cost`.

    Raises:
        ValueError: no finished run.
    """
    table = by_setting(finished(runs))
    keys = list(table.columns[: table.columns.get_loc("n")])
    lines = []
    parts = [table[table[METHOD] == method].sort_values(keys) for method in methods_of(table)]
    for _, row in pd.concat(parts).iterrows():
        names = [label(row[key]) if key == METHOD else plain(row[key]) for key in keys]
        ratio = "-" if math.isnan(row["step_vs_sgd"]) else f"{row['step_vs_sgd']:.2f}"
        lines.append([*names, str(row["n"]), f"{row['step_ms']:.1f}", ratio])
    header = [*("method" if key == METHOD else key.removesuffix(".name") for key in keys), "n", "ms / step", "/ SGD"]
    return markdown(header, lines, len(keys))


def measured_table(runs: pd.DataFrame, keys: Sequence[str] = SHARPNESS) -> str:
    """Return measured quantities at the end by method: mean ± standard deviation over seeds, and n.

    Methods of which no run was measured are left out; where a value is there for fewer than n runs, its own n is
    behind it in brackets.

    What `fsamlab measure` found is taken before training's own values.

    Raises:
        ValueError: none of `keys` was measured, or under different conventions.
    """
    done = comparable(runs, [METHOD])
    columns = end_columns(done, keys)
    done = done[done[list(columns.values())].notna().any(axis=1)]
    n = done[METHOD].value_counts()
    texts: dict[str, list[str]] = {method: [label(method), str(n[method])] for method in methods_of(done)}
    for column in columns.values():
        found = {row[METHOD]: row for row in mean_std(done, [METHOD], column).to_dict("records")}
        for method, text in texts.items():
            text.append(measured(found[method], n[method]) if method in found else "-")
    return markdown([LABEL, "n", *columns], list(texts.values()))


def measured(row: dict[Any, Any], n: int) -> str:
    """Return mean ± standard deviation with three and two significant digits, and their n where it is another."""
    spread = "" if math.isnan(row["std"]) else f" ± {row['std']:.2g}"
    return f"{row['mean']:.3g}{spread}" + ("" if row["n"] == n else f" ({row['n']})")


def conventions_table(runs: pd.DataFrame) -> str:
    """Return what the measured values of runs depend on (docs/metrics.md), a line for each convention.

    Of `fsamlab measure` where it was used, else of training. Several values in a line mean: not comparable there;
    the sample hash goes with the seed.

    Raises:
        ValueError: no finished run, or none with conventions.
    """
    done = finished(runs)
    source = next((source for source in ("measured/", "") if conventions(done, source)), None)
    if source is None:
        raise ValueError("no run has diagnostics/ conventions; train with diagnostics=light, or use `fsamlab measure`")
    lines = []
    for column in conventions(done, source):
        values = dict.fromkeys(plain(value) for value in done[column].dropna())
        lines.append([column.removeprefix(f"{source}diagnostics/"), ", ".join(values)])
    return markdown(["convention", "value"], lines, 2)
