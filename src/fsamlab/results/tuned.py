"""Each method at its best radius: the radius is chosen on validation data, and the accuracy is that on test data.

A comparison at one radius favours the method that the radius suits. Here each method has the radius at which its mean
validation metric after the last epoch is best. Test data choose nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fsamlab.metrics import Headline
from fsamlab.results.by_setting import by_setting, places_of
from fsamlab.results.choice import best_value
from fsamlab.results.frames import methods_of
from fsamlab.results.gains import VS_SGD, gain_text, gains_of, reference_words
from fsamlab.results.methods import label
from fsamlab.results.settings import METHOD, in_order, numbers, own_n, plain, values_of
from fsamlab.results.study import Study
from fsamlab.terminal.text import fixed, spread

RHO = "optimizer.rho"


@dataclass(frozen=True)
class TunedTable:
    """The table as texts.

    Attributes:
        title: what the table shows.
        header: the headings of the columns.
        num_names: the number of columns that name a line: the method and what tells its settings apart.
        lines: a list of cells for each setting, in the order of the methods.
        notes: settings whose best value is at the end of the tried ones, so that a better value may lie beyond it; and
            what the differences from SGD are.
    """

    title: str
    header: list[str]
    num_names: int
    lines: list[list[str]]
    notes: list[str]


def is_tuned(study: Study, key: str = RHO) -> bool:
    """Return whether :func:`tuned` has something to choose: several values of a key, and validation data."""
    done = study.finished.distinct.known.runs
    if len(study.headlines) != 1 or done.empty or key not in done or study.headline.chosen_at_end not in done:
        return False
    validated = numbers(done[study.headline.chosen_at_end]).notna()
    return bool(values_of(done[validated], key).groupby(done[METHOD]).nunique().gt(1).any())


def own_radii(study: Study) -> list[str]:
    """Return a line with the radius of each method, where each has one and methods have different ones.

    Such a radius has no column: it is a part of the method.
    """
    done = study.finished.distinct.known
    if done.runs.empty or RHO not in done.runs or RHO in done.keys:
        return []
    runs = done.runs[numbers(done.runs[RHO]) > 0]
    if runs.groupby(METHOD)[RHO].nunique().gt(1).any():  # a radius for each data set: a note says what changes together
        return []
    radii = {method: runs.loc[runs[METHOD] == method, RHO].iloc[0] for method in methods_of(runs)}
    if len(set(radii.values())) < 2:
        return []
    return [f"each method has its own {RHO}: {', '.join(f'{name} {plain(rho)}' for name, rho in radii.items())}"]


def tuned_tables(study: Study) -> list[TunedTable]:
    """Return the tables of the radius for terminal and page, one for each headline metric; none without a choice.

    Where runs that cannot be compared prevent the choice, the table has no lines, and its title says why.
    """
    tables = []
    for part in study.finished.distinct.known.by_headline if len(study.finished.runs) else []:
        if is_tuned(part):
            try:
                tables.append(tuned(part))
            except ValueError as e:
                tables.append(TunedTable(f"no radius is chosen by validation: {e}", [], 0, [], []))
    return tables


def tuned(study: Study, key: str = RHO) -> TunedTable:
    """Return each setting at the value of `key` with the best mean validation metric at the end.

    The mean is over the seeds that all values of a setting have. So further seeds may be trained at the chosen value
    alone: they enter the means of the table, and do not change the choice.

    Args:
        study: runs of several values of `key`. A setting with one value, or with none (SGD has no radius), keeps it.
        key: the numeric config key that is chosen.

    Raises:
        ValueError: no setting has several values of `key`, there is no validation data, runs of one setting differ in a
            further key or have a seed twice, or no seed has all values of a setting.
    """
    done = study.finished.distinct.known
    if not is_tuned(done, key):
        raise ValueError(
            f"no method has finished runs with several values of {key} and a validation split (data.val_size)"
        )
    headline = done.headline
    names = [name for name in done.keys if name != key]
    kept, tried = _chosen(done, names, key, headline)
    metrics = [headline.chosen_at_end, headline.at_end, headline.at_best]
    table = by_setting(kept, names, metrics, (headline,))
    settings = kept.groupby(names, sort=False, dropna=False).ngroup()
    table["directory"] = kept["directory"].groupby(settings).first()
    shown = [metric for metric in metrics if f"{metric} mean" in table]
    gains = gains_of(table, headline.at_end)
    header = [*("method" if name == METHOD else name.removesuffix(".name") for name in names)]
    header += [key.removeprefix("optimizer."), "n"]
    texts = {
        headline.chosen_at_end: "validation, at the end",
        headline.at_end: "test, at the end",
        headline.at_best: "test, at best epoch",
    }
    for metric in shown:
        header.append(texts[metric])
        if metric == headline.at_end and gains:
            header.append(VS_SGD)
    header += ["passes", "time"]
    lines, notes = [], []
    for row in in_order(table)[1]:
        value, side, of = tried[row["directory"]]
        name = [label(row[name]) if name == METHOD else plain(row[name]) for name in names]
        cells = [*name, "-" if value is None else f"{plain(value)} (of {of})", str(row["n"])]
        for metric in shown:
            text = spread(row[f"{metric} mean"], row[f"{metric} std"], headline.percent)
            cells.append(text + own_n(int(row[f"{metric} n"]), row["n"]))
            if metric == headline.at_end and gains:
                cells.append(gain_text(row, metric))
        lines.append([*cells, *(fixed(row[cost], 2, "x") for cost in ("passes_vs_sgd", "total_vs_sgd"))])
        if side:
            who = ", ".join(cell for cell in name if cell != "null")
            notes.append(f"{who}: {key} {plain(value)} is the {side} value tried; a better one may lie beyond")
    notes += reference_words(gains)
    title = (
        f"{key} of each method chosen by validation {headline.words} at the end; mean ± standard deviation over n seeds"
    )
    return TunedTable(title, header, len(names), lines, notes)


def _chosen(
    done: Study, names: list[str], key: str, headline: Headline
) -> tuple[pd.DataFrame, dict[str, tuple[Any, str, int]]]:
    """Return the runs at the chosen values, and {directory: (value, which end of the tried ones, number of them)}."""
    runs = done.runs.assign(**{headline.chosen_at_end: numbers(done.runs[headline.chosen_at_end])})
    further = [str(name) for name in done.texts if name not in (*names, key)]
    # the groups are frames of the few columns that the choice needs; a sweep may have hundreds of groups
    narrow = pd.DataFrame({"method": runs[METHOD], "value": values_of(runs, key), "seed": runs["seed"]})
    narrow[headline.chosen_at_end] = runs[headline.chosen_at_end]
    positions, found = [], {}
    for places in places_of(runs.groupby(names, sort=False, dropna=False).ngroup()).values():
        group = narrow.iloc[places]
        what = label(str(group["method"].iloc[0]))
        values = group["value"]
        for name in further:
            if done.texts[name].iloc[places].nunique() > 1:
                raise ValueError(
                    f"runs of {what} differ in {name} beside {key}: no choice among them; choose some runs"
                )
        value: Any = best_value(group, values, headline, what, key)
        tried = sorted(values.dropna().unique())
        kept = places if value is None else places[(values == value).to_numpy()]
        side = "" if len(tried) < 2 else {tried[0]: "smallest", tried[-1]: "largest"}.get(value, "")
        positions.append(kept)
        found.update(dict.fromkeys(runs["directory"].iloc[kept], (value, side, len(tried))))
    return runs.iloc[np.concatenate(positions)].reset_index(drop=True), found
