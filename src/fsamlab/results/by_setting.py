"""The table of a study: a row for each setting, with statistics over seeds, differences from SGD, and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.typing import SeriesGroupBy

from fsamlab.metrics import Declared, higher_is_better, of
from fsamlab.results.gains import EQUAL, PLAIN, SGD, Gain, is_plain, paired, references
from fsamlab.results.passes import total_passes
from fsamlab.results.settings import METHOD, conditions_of, numbers


def over_seeds(groups: SeriesGroupBy) -> pd.DataFrame:
    """Return mean, std (n - 1) and n of each group's values that are not NaN, one row for each group.

    This is the only place that takes means over seeds, except the page's script, whose reader chooses the runs.
    """
    table: pd.DataFrame = groups.agg(mean="mean", std="std", n="count")  # type: ignore[assignment]  # of pandas-stubs
    return table


def by_setting(
    finished: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str], declared: Declared = (), against: str = EQUAL
) -> pd.DataFrame:
    """Return one row for each setting: its config keys, the number n of its runs, statistics and costs.

    The columns for each metric that any run has:
        `METRIC mean`, `METRIC std`, `METRIC n`: see :func:`over_seeds`; n counts the runs with a finite value.
        `METRIC gain`: a :class:`~fsamlab.results.gains.Gain`, the differences to the reference's runs with the same
            seed; None without a reference.

    The columns of the costs:
        `step_ms`: median time of a step.
        `steps`: mean number of steps.
        `passes`: mean number of gradient passes of the whole training, in epochs of SGD.
        `step_vs_sgd`: step_ms divided by that of SGD with the same other keys.
        `total_vs_sgd`, `passes_vs_sgd`: the same ratio for steps × step_ms, and for the passes.
        `plain`, `base`: whether the method has no perturbation, and its base optimizer.

    Methods are compared seed by seed, because a seed is one draw of the validation split, the label noise and the
    initial weights, and all methods have the same draw.

    Args:
        finished: finished runs without repetitions.
        keys: the config keys that tell the settings apart, with METHOD.
        metrics: columns of `finished`; columns that no run has are left out.
        declared: the headlines of the runs' tasks, which give the directions of the metrics.
        against: what the differences are to, see :func:`~fsamlab.results.gains.references`; costs are relative to SGD.
    """
    present = [metric for metric in metrics if metric in finished and numbers(finished[metric]).notna().any()]
    finished = finished.reset_index(drop=True).assign(**{metric: numbers(finished[metric]).array for metric in present})
    setting_of = finished.groupby(list(keys), sort=False, dropna=False).ngroup()
    firsts = ~setting_of.duplicated()
    table = finished.loc[firsts, list(keys)].set_axis(setting_of[firsts]).sort_index()
    table["n"] = setting_of.value_counts()
    for metric in present:
        table = table.join(over_seeds(finished[metric].groupby(setting_of)).add_prefix(f"{metric} "))
    unknown = pd.Series(math.nan, index=finished.index)
    table["step_ms"] = numbers(finished.get("cost/step_ms", unknown)).groupby(setting_of).median()
    table["steps"] = numbers(finished.get("cost/steps", unknown)).groupby(setting_of).mean()
    table["passes"] = total_passes(finished).groupby(setting_of).mean()
    first_runs = finished[firsts].set_axis(setting_of[firsts]).sort_index()
    ascents = first_runs.get("optimizer.ascent", pd.Series(None, index=table.index, dtype=object))
    table["plain"] = [is_plain(str(method), ascent) for method, ascent in zip(table[METHOD], ascents)]
    bases = table[METHOD].map(lambda method: PLAIN.get(method, SGD))
    table["base"] = first_runs["optimizer.base"].fillna(bases) if "optimizer.base" in first_runs else bases
    table = table.join(_costs_vs_sgd(table, _conditions(table, keys)))
    return table.assign(**with_gains(finished, setting_of, table, keys, present, declared, against))


def with_gains(
    finished: pd.DataFrame,
    setting_of: pd.Series,
    table: pd.DataFrame,
    keys: Sequence[str],
    metrics: Sequence[str],
    declared: Declared,
    against: str,
) -> dict[str, pd.Series]:
    """Return {`METRIC gain`: the Gain of each setting, or None}."""
    reference_of = references(table, keys, against)
    runs_of = places_of(setting_of)
    seeds = [None if seed != seed else seed for seed in finished["seed"]] if reference_of else []
    found = {}
    for metric in metrics:
        percent = of(metric, declared).percent
        values = (finished[metric] * (100.0 if percent else 1.0)).to_list()
        gains: dict[Any, Gain | None] = dict.fromkeys(table.index)
        for setting, (reference, same) in reference_of.items():
            pairs = paired(seeds, values, runs_of[setting].tolist(), runs_of[reference].tolist())
            if pairs is not None:
                gains[setting] = Gain(pairs, higher_is_better(metric, declared), reference, same, percent)
        found[f"{metric} gain"] = pd.Series(gains, index=table.index, dtype=object)
    return found


def places_of(groups: pd.Series) -> dict[int, np.ndarray]:
    """Return {group: positions of its rows} from the number of each row's group, sorted by the number."""
    found = groups.to_numpy()
    order = np.argsort(found, kind="stable")
    numbers_, starts = np.unique(found[order], return_index=True)
    return dict(zip(numbers_.tolist(), np.split(order, starts[1:])))


def _conditions(table: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Return for each setting a value that equals that of another setting if both may be compared.

    Two settings may be compared if they agree in all keys except the optimizer's; missing values agree.
    """
    columns = [table[key].to_list() for key in conditions_of(keys)]
    found = [tuple(None if value != value else value for value in row) for row in zip(*columns)]
    return pd.Series(found if columns else [()] * len(table), index=table.index, dtype=object)


def _costs_vs_sgd(table: pd.DataFrame, conditions: pd.Series) -> pd.DataFrame:
    """Return time of a step, time of the training and its passes, divided by SGD's under the same conditions."""
    step_ms: dict[Any, float] = {}
    steps: dict[Any, float] = {}
    passes: dict[Any, float] = {}
    for condition, settings in _settings_under(conditions[table[METHOD] == SGD]).items():
        same = table.loc[settings, ["step_ms", "steps", "passes"]]
        step_ms[condition] = same["step_ms"].median()
        for found, name in ((steps, "steps"), (passes, "passes")):
            found[condition] = same[name].iloc[0] if same[name].nunique() == 1 else math.nan

    def of_sgd(found: dict[Any, float]) -> pd.Series:
        return pd.Series([found.get(c, math.nan) for c in conditions], index=table.index)

    ratio = table["step_ms"] / of_sgd(step_ms)
    return pd.DataFrame(
        {
            "step_vs_sgd": ratio,
            "total_vs_sgd": ratio * table["steps"] / of_sgd(steps),
            "passes_vs_sgd": table["passes"] / of_sgd(passes),
        }
    )


def _settings_under(conditions: pd.Series) -> dict[Any, list[Any]]:
    """Return {condition: its settings}. A groupby of pandas would take the tuples apart."""
    found: dict[Any, list[Any]] = {}
    for setting, condition in conditions.items():
        found.setdefault(condition, []).append(setting)
    return found
