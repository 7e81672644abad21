"""Statistics over seeds: a table with a row for each setting, differences to SGD, and which setting is clearly best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.typing import SeriesGroupBy

from fsamlab.axes import rules
from fsamlab.axes.ascent import ASCENTS
from fsamlab.metrics import Declared, higher_is_better, of
from fsamlab.results.methods import METHODS
from fsamlab.terminal.text import spread

METHOD = "optimizer.name"
MAX_NAMED = 4  # a line of text names so many keys or values, and counts the others


def numbers(values: pd.Series) -> pd.Series:
    """Return values as floats, with NaN for missing and infinite values, which may not enter a mean."""
    found = pd.to_numeric(values, errors="coerce").astype(float)
    return found.where(found.abs() < math.inf)


def values_of(runs: pd.DataFrame, key: str) -> pd.Series:
    """Return the numbers of a config key, NaN for each run that has none.

    A run that does not perturb has no radius and no other parameter of the perturbation, whatever its config.yaml says.
    """
    found = pd.to_numeric(runs[key], errors="coerce").astype(float)
    of_perturbation = key in [f"optimizer.{name}" for name in ("rho", "every", "floor", *rules.parameter_types())]
    if not of_perturbation or "optimizer.ascent" not in runs:
        return found
    unperturbed = [name for name, ascent in ASCENTS.items() if not ascent.perturbs]
    return found.mask(runs["optimizer.ascent"].isin(unperturbed))


def as_text(values: pd.Series) -> pd.Series:
    """Return config values as texts, to tell settings apart; a missing value becomes the text `null`.

    From pandas 3 on `astype(str)` keeps missing values, and groupby and nunique would not count them.
    """
    return values.map(lambda value: "null" if value is None or value != value else str(value))


def plain(value: Any) -> str:
    """Return a config value as a user types it; `null` for a missing value and None."""
    if value is None or value != value:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def more(texts: Sequence[str]) -> str:
    """Return ` and 3 more` if MAX_NAMED of the texts are named and 3 are not; an empty string if all are named."""
    return f" and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""


def over_seeds(groups: SeriesGroupBy) -> pd.DataFrame:
    """Return mean, std (n - 1) and n of each group's values that are not NaN, one row for each group.

    This is the only place that takes means over seeds, except the page's script, whose reader chooses the runs.
    """
    table: pd.DataFrame = groups.agg(mean="mean", std="std", n="count")  # type: ignore[assignment]  # of pandas-stubs
    return table


def by_setting(
    finished: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str], declared: Declared = (), control: str = "sgd"
) -> pd.DataFrame:
    """Return one row for each setting: its config keys, the number n of its runs, statistics and costs.

    The columns for each metric that any run has:
        `METRIC mean`, `METRIC std`, `METRIC n`: see :func:`over_seeds`; n counts the runs with a finite value.
        `METRIC vs CONTROL mean`, `... std`, `... n`: statistics of the differences to the run of `control` (SGD) with
            the same seed. They need exactly one setting of `control` that agrees with the row in all keys except the
            optimizer's.
        `METRIC vs CONTROL ahead`: the number of seeds in which the method is better than `control`.

    The columns of the costs:
        `step_ms`: median time of a step.
        `steps`: mean number of steps.
        `step_vs_sgd`: step_ms divided by that of SGD with the same other keys.
        `total_vs_sgd`: the same ratio for steps × step_ms.

    Methods are compared seed by seed, because a seed is one draw of the validation split, the label noise and the
    initial weights, and all methods have the same draw.

    Args:
        finished: finished runs without repetitions.
        keys: the config keys that tell the settings apart, with METHOD.
        metrics: columns of `finished`; columns that no run has are left out.
        declared: the headlines of the runs' tasks, which give the directions of the metrics.
        control: the method that the differences are to; the costs are relative to SGD.
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
    alike = _conditions(table, keys)
    table = table.join(_costs_vs_sgd(table, alike))
    control_of = _control_of(table, alike, control)
    runs_of = places_of(setting_of)
    seeds = [None if seed != seed else seed for seed in finished["seed"]] if control_of else []
    for metric in present:
        values = finished[metric].to_list()
        differences: dict[int, float] = {}
        for setting, other in control_of.items():
            differences.update(_differences(runs_of[setting], runs_of[other], seeds, values))
        found = pd.Series(differences, dtype=float).dropna()
        if len(found):
            groups = found.groupby(setting_of)
            better = found > 0 if higher_is_better(metric, declared) else found < 0
            pairs = over_seeds(groups).assign(ahead=better.groupby(setting_of).sum())
            table = table.join(pairs.add_prefix(f"{metric} vs {control} "))
    return table


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
    """Return the time of a step and of the training, divided by that of SGD under the same conditions."""
    step_ms, steps = {}, {}
    for condition, settings in _settings_under(conditions[table[METHOD] == "sgd"]).items():
        same = table.loc[settings, ["step_ms", "steps"]]
        step_ms[condition] = same["step_ms"].median()
        steps[condition] = same["steps"].iloc[0] if same["steps"].nunique() == 1 else math.nan
    ratio = table["step_ms"] / pd.Series([step_ms.get(c, math.nan) for c in conditions], index=table.index)
    num_steps = pd.Series([steps.get(c, math.nan) for c in conditions], index=table.index)
    return pd.DataFrame({"step_vs_sgd": ratio, "total_vs_sgd": ratio * table["steps"] / num_steps})


def _control_of(table: pd.DataFrame, conditions: pd.Series, control: str) -> dict[Any, Any]:
    """Return {setting: the setting of `control` to compare with}, for each setting with exactly one such setting."""
    controls = _settings_under(conditions[table[METHOD] == control])
    others = conditions[table[METHOD] != control]
    return {s: controls[condition][0] for s, condition in others.items() if len(controls.get(condition, ())) == 1}


def _settings_under(conditions: pd.Series) -> dict[Any, list[Any]]:
    """Return {condition: its settings}. A groupby of pandas would take the tuples apart."""
    found: dict[Any, list[Any]] = {}
    for setting, condition in conditions.items():
        found.setdefault(condition, []).append(setting)
    return found


def _differences(
    runs: np.ndarray, control: np.ndarray, seeds: Sequence[Any], values: Sequence[float]
) -> dict[int, float]:
    """Return {run: its value minus the value of the control's run with the same seed}.

    If several runs have one seed, the pairs are not defined and the result is empty.

    Args:
        runs, control: positions of the runs of a setting and of its control.
        seeds, values: of all runs; the values are numbers or NaN.
    """
    of_control = {seeds[i]: values[i] for i in control}
    if len(of_control) < len(control) or len({seeds[i] for i in runs}) < len(runs):
        return {}
    return {i: values[i] - of_control.get(seeds[i], math.nan) for i in runs}


def keys_of(table: pd.DataFrame) -> list[str]:
    """Return the config keys that tell the rows of :func:`by_setting` apart."""
    return [str(key) for key in table.columns[: table.columns.get_loc("n")]]


def in_order(table: pd.DataFrame) -> tuple[list[str], list[dict[Any, Any]]]:
    """Return the config keys and the rows of :func:`by_setting`, sorted for a table.

    Rows are sorted by method, in the order of METHODS, and then by the values of the other keys.
    """
    keys = keys_of(table)
    return keys, sorted(table.to_dict("records"), key=lambda row: [place(key, row[key]) for key in keys])


def place(key: str, value: Any) -> tuple[int, float, str]:
    """Return the sort key of a config value: methods in the order of METHODS, numbers by size, null first."""
    if key == METHOD:
        return (list(METHODS).index(value) if value in METHODS else len(METHODS), 0.0, str(value))
    if value is None or value != value:
        return (0, 0.0, "")
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


def own_n(n: int, told: int | None) -> str:
    """Return the note behind a mean over n runs: nothing if the table says n already, else the mean's own n.

    Args:
        n: number of runs in the mean.
        told: the n that the table gives for this mean; None if the table gives none.
    """
    return "" if n == told else f" ({n})" if told is None else f" (n = {n})"


def gain(setting: Mapping[Any, Any] | pd.Series, metric: str, declared: Declared = (), control: str = "sgd") -> str:
    """Return `+3.96 ± 1.83 (3 of 3)`: the difference to `control`, and in how many seeds the method is better.

    The difference is in points for a metric that is shown in per cent. Without a difference the text is `-`.
    """
    mean, std, n, ahead = (setting[f"{metric} vs {control} {name}"] for name in ("mean", "std", "n", "ahead"))
    if math.isnan(mean):
        return "-"
    text = spread(mean, std, of(metric, declared).percent)
    return f"{'' if mean < 0 else '+'}{text} ({ahead:.0f} of {n:.0f})"


def clear_best(table: pd.DataFrame, metric: str, declared: Declared = ()) -> set[Any]:
    """Return the index of each setting of :func:`by_setting` that is clearly best in `metric`.

    Settings are compared if they agree in all keys except the optimizer's. The best setting is clearly best if its mean
    is better than the second mean by more than the larger of the two standard deviations. If a standard deviation is
    not known, no setting is clearly best.
    """
    higher = higher_is_better(metric, declared)
    mean, std = f"{metric} mean", f"{metric} std"
    if mean not in table:
        return set()
    others = conditions_of(keys_of(table))
    best = set()
    for _, rivals in table.groupby(others, dropna=False) if others else [((), table)]:
        ranked = rivals[rivals[mean].notna()].sort_values(mean, ascending=not higher, kind="stable")
        if len(ranked) < 2:
            continue
        first, second = ranked.iloc[0], ranked.iloc[1]
        if clearly_ahead(first[mean], first[std], second[mean], second[std]):
            best.add(ranked.index[0])
    return best


def clearly_ahead(mean: float, std: float, other_mean: float, other_std: float) -> bool:
    """Return whether two means differ by more than the larger standard deviation; False if one is not known."""
    return not (math.isnan(std) or math.isnan(other_std)) and abs(mean - other_mean) > max(std, other_std)


def conditions_of(keys: Sequence[str]) -> list[str]:
    """Return the keys that must agree for a comparison: all except the optimizer's keys (SGD has no rho)."""
    return [key for key in keys if not key.startswith("optimizer.")]
