"""Tables of a sweep as Markdown: the headline metric (as LaTeX too), costs, measured values and their conventions.

Means are over finished runs, standard deviations with n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fsamlab.figures.markup import FORMS, markdown
from fsamlab.figures.measured import SHARPNESS
from fsamlab.metrics import Headline
from fsamlab.results.frames import (
    advice,
    comparable,
    convention_columns,
    end_columns,
    finished,
    means,
    methods_of,
)
from fsamlab.results.gains import EQUAL, gain_text, gains_of, unequal_words
from fsamlab.results.methods import label
from fsamlab.results.settings import (
    METHOD,
    clear_best,
    conditions_of,
    in_order,
    own_n,
    place,
    plain,
)
from fsamlab.results.study import Runs, Study
from fsamlab.results.tuned import RHO, tuned
from fsamlab.terminal.text import fixed, spread

LABEL = "method"  # a column: the method's name and the parameters in which its settings differ


def accuracy_table(runs: Runs, form: str = "markdown") -> str:
    """Return the headline metric on test data (accuracies in per cent): mean ± standard deviation over seeds, and n.

    If only methods and their parameters vary, each setting has a line. If data, model or training vary too (the paper's
    tables of CIFAR and of label noise), each of these conditions has a line and each method a column. The best value of
    a condition is bold if it leads over the second by more than the larger of the two standard deviations; both must be
    known (n of 2 or more). A mean over fewer than n runs is followed by its own n. `at best validation epoch` needs
    runs with a validation split. Below the tables stands which settings change together with those that name a line (in
    LaTeX as comments).

    Args:
        runs: a study, or its frame of runs.
        form: `markdown`, or `latex` for a paper: a tabular with the rules of booktabs and a comment with its title.

    Raises:
        ValueError: there is no finished run, no run has the metric on test data, a setting has a seed twice, or `form`
            is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}: must be one of {', '.join(FORMS)}")
    study = finished(runs)
    keys = study.keys
    study = comparable(study, keys)
    headline = study.headline
    headings = headings_of(headline)
    table = study.settings()
    metrics = [metric for metric in headings if f"{metric} mean" in table]
    if not metrics:
        raise ValueError(f"no run has {headline.at_end}; {advice(headline.at_end)}")
    best = {f"{metric} best": table.index.isin(clear_best(table, metric, (headline,))) for metric in metrics}
    settings = with_labels(in_order(table.assign(**best))[1], [key for key in keys if key.startswith("optimizer.")])
    conditions = conditions_of(keys)
    if conditions:
        parts = [by_column(settings, conditions, metric, headline) for metric in metrics]
    else:
        parts = [by_line(settings, metrics, headline)]
    comment = "% " if form == "latex" else ""
    texts = [f"{comment}{title}\n\n{FORMS[form](*table)}" for title, *table in parts]
    return "\n\n".join([*texts, *(f"{comment}{note}" for note in study.tie_notes(keys))])


def headings_of(headline: Headline) -> dict[str, str]:
    """Return {column of the summary: heading} of the headline metric on test data."""
    return {headline.at_best: "at best validation epoch", headline.at_end: "at the end"}


Setting = dict[Any, Any]  # a row of Study.settings()


def with_labels(settings: Sequence[Setting], keys: Sequence[str]) -> list[Setting]:
    """Return settings with an entry LABEL: `SAM`, or `SAM, rho 0.1` where SAM has several values of rho."""
    values: dict[tuple[str, str], set[str]] = {}
    for row in settings:
        for key in keys:
            values.setdefault((row[METHOD], key), set()).add(plain(row[key]))
    labelled = []
    for row in settings:
        varied = [key for key in keys if key != METHOD and len(values[row[METHOD], key]) > 1]
        parts = [label(row[METHOD]), *(f"{key.removeprefix('optimizer.')} {plain(row[key])}" for key in varied)]
        labelled.append({**row, LABEL: ", ".join(parts)})
    return labelled


Parts = tuple[str, list[str], list[list[str]], int]  # title, header, lines, number of columns that name a line


def by_line(settings: Sequence[Setting], metrics: Sequence[str], headline: Headline) -> Parts:
    """Return a table with a line for each setting and a column for each metric."""
    percent, headings = headline.percent, headings_of(headline)
    lines = [[row[LABEL], str(row["n"]), *(cell(row, m, row["n"], percent) for m in metrics)] for row in settings]
    title = f"Test {headline.words}, mean ± standard deviation over n seeds"
    return title, [LABEL, "n", *(headings[metric] for metric in metrics)], lines, 1


def by_column(settings: Sequence[Setting], conditions: list[str], metric: str, headline: Headline) -> Parts:
    """Return a table with a line for each condition and a column for each method.

    The title gives n if all cells have the same n; otherwise each cell gives its own.
    """
    settings = [row for row in settings if row[f"{metric} n"] > 0]
    names = list(dict.fromkeys(row[LABEL] for row in settings))
    counts = {int(row[f"{metric} n"]) for row in settings}
    told = next(iter(counts)) if len(counts) == 1 else None
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in sorted(settings, key=lambda row: [place(key, row[key]) for key in conditions]):
        condition = tuple(plain(row[key]) for key in conditions)
        cells.setdefault(condition, {})[row[LABEL]] = cell(row, metric, told, headline.percent)
    lines = [[*condition, *(found.get(name, "-") for name in names)] for condition, found in cells.items()]
    when = headings_of(headline)[metric]
    title = f"Test {headline.words} {when}, mean ± standard deviation over {told or '(n)'} seeds"
    return title, [*(key.removesuffix(".name") for key in conditions), *names], lines, len(conditions)


def cell(row: Setting, metric: str, told: int | None, percent: bool) -> str:
    """Return `mean ± std`, bold if clearly the best, followed by its n if `told`, the n of the table, differs."""
    n = int(row[f"{metric} n"])
    if n == 0:
        return "-"
    text = spread(row[f"{metric} mean"], row[f"{metric} std"], percent) + own_n(n, told)
    return f"**{text}**" if row[f"{metric} best"] else text


def cost_table(runs: Runs) -> str:
    """Return the costs by setting: the median time of a step in ms, its ratio to that of SGD, and the whole training.

    `time` and `passes` are the ratios for a whole training: steps × time of a step, and gradient passes. The runs come
    from `+sweeps=cost`.

    Raises:
        ValueError: there is no finished run.
    """
    study, lines = finished(runs), []
    keys, settings = in_order(study.settings())
    for row in settings:
        names = [label(row[key]) if key == METHOD else plain(row[key]) for key in keys]
        ratios = [fixed(row[key], 2) for key in ("step_vs_sgd", "total_vs_sgd", "passes_vs_sgd")]
        lines.append([*names, str(row["n"]), fixed(row["step_ms"], 1), *ratios])
    names = ["method" if key == METHOD else key.removesuffix(".name") for key in keys]
    return with_notes(markdown([*names, "n", "ms / step", "/ SGD", "time", "passes"], lines, len(keys)), study, keys)


def with_notes(table: str, study: Study, keys: Sequence[str]) -> str:
    """Return a Markdown table, and below the table which settings change together with the keys that name its lines."""
    return "\n\n".join([table, *study.tie_notes(keys)])


def paired_table(runs: Runs, against: str = EQUAL) -> str:
    """Return the difference of each setting from a reference on test data, seed by seed.

    A cell has the mean, the 95 % t interval, and the seeds in which the setting is better. The metric is the headline
    of the runs' task; accuracies are in points. A seed is one draw of validation split, label noise and initial weights
    for all methods. The effect of the draw is the same in both runs of a pair, and therefore mostly absent from the
    differences.

    Args:
        runs: a study, or its frame of runs.
        against: the reference: SGD at equal compute (with as many gradient passes; plain SGD, with a mark, where there
            is none), or the name of a method such as `sam`.

    Raises:
        ValueError: there is no finished run, or no run has exactly one run of the reference to be compared with.
    """
    study = finished(runs)
    table = study.settings(against=against)
    headline = study.headline
    metrics = {key: text for key, text in headings_of(headline).items() if gains_of(table, key)}
    if not metrics:
        name = "sgd" if against == EQUAL else against
        raise ValueError(
            f"no seed of another method has one {label(name)} run to compare with; `optimizer={name}` makes it"
        )
    gained = table[[f"{metric} gain" for metric in metrics]].notna().any(axis=1)
    keys, settings = in_order(table[gained])
    lines = [
        [label(row[METHOD]), *(plain(row[key]) for key in keys[1:]), *(gain_text(row, metric) for metric in metrics)]
        for row in settings
    ]
    names = [LABEL, *(key.removesuffix(".name") for key in keys[1:])]
    better = "higher" if headline.higher_is_better else "lower, which is better"
    points = ", in points" if headline.percent else ""
    who = "SGD at equal compute" if against == EQUAL else label(against)
    title = (
        f"Test {headline.title} minus that of {who} with the same seed{points}: mean [95 % t interval], seeds in which "
        f"it is {better}"
    )
    found = [f"{title}\n\n{markdown([*names, *metrics.values()], lines, len(keys))}"]
    found += unequal_words([gain for metric in metrics for gain in gains_of(table, metric)], against)
    return with_notes("\n\n".join(found), study, keys)


def tuned_table(runs: Runs, key: str = RHO, form: str = "markdown") -> str:
    """Return each method at the value of `key` (the radius) that validation data choose, with accuracies on test data.

    See :func:`fsamlab.results.tuned.tuned`. The differences are to SGD at equal compute, with the same seed.

    Args:
        runs: a study, or its frame of runs.
        key: the numeric config key that is chosen.
        form: `markdown`, or `latex`.

    Raises:
        ValueError: nothing can be chosen (see there), or `form` is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}: must be one of {', '.join(FORMS)}")
    found = tuned(finished(runs), key)
    comment = "% " if form == "latex" else ""
    table = FORMS[form](found.header, found.lines, found.num_names)
    return "\n\n".join([f"{comment}{found.title}", table, *(f"{comment}{note}" for note in found.notes)])


def measured_table(runs: Runs, keys: Sequence[str] = SHARPNESS) -> str:
    """Return measured quantities at the end by method: mean ± standard deviation over seeds, and n.

    Methods without a measured run are left out. A mean over fewer than n runs is followed by its own n. Infinite values
    count as missing. noise/scale is the ratio of the means, without a deviation; it is missing if the mean of its
    denominator is not positive. The values are those of `fsamlab measure`, or, if it measured no key, those of
    training.

    Raises:
        ValueError: no key was measured, or the values were measured under different conventions.
    """
    study = comparable(runs, [METHOD])
    columns = end_columns(study.runs, keys)
    study = study.where(study.runs[list(columns.values())].notna().any(axis=1))
    done = study.runs
    n = done[METHOD].value_counts()
    texts: dict[str, list[str]] = {method: [label(method), str(n[method])] for method in methods_of(done)}
    for column in columns.values():
        known = means(done, [METHOD], column).dropna(subset="mean")
        found = {row[METHOD]: row for row in known.to_dict("records")}
        for method, text in texts.items():
            text.append(measured(found[method], n[method]) if method in found else "-")
    return with_notes(markdown([LABEL, "n", *columns], list(texts.values())), study, [METHOD])


def measured(row: dict[Any, Any], n: int) -> str:
    """Return mean (three digits) ± standard deviation (two digits), followed by its own n if that is not `n`."""
    spread = "" if math.isnan(row["std"]) else f" ± {row['std']:.2g}"
    return f"{row['mean']:.3g}{spread}" + own_n(row["n"], n)


def conventions_table(runs: Runs) -> str:
    """Return the conventions of measured values (docs/metrics.md), a line for each convention.

    They are the conventions of `fsamlab measure`, or, if it was not used, of training. If a line has several values,
    the measured values are not comparable; only the sample hash differs from seed to seed.

    Raises:
        ValueError: there is no finished run, or no run has conventions.
    """
    done = finished(runs).runs
    source = next((source for source in ("measured/", "") if convention_columns(done, source)), None)
    if source is None:
        raise ValueError("no run has diagnostics/ conventions; train with diagnostics=light, or use `fsamlab measure`")
    lines = []
    for column in convention_columns(done, source):
        values = dict.fromkeys(plain(value) for value in done[column].dropna())
        lines.append([column.removeprefix(f"{source}diagnostics/"), ", ".join(values)])
    return markdown(["convention", "value"], lines, 2)
