"""Statistics over seeds: a table with a row for each setting, differences to SGD, and which setting is clearly best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
    table = table.join(_costs_vs_sgd(table, keys))
    control_of = _control_of(table, keys, control)
    for metric in present:
        differences = [
            _differences(finished[setting_of == setting], finished[setting_of == other], metric)
            for setting, other in control_of.items()
        ]
        found = pd.concat([pd.Series(dtype=float), *differences]).dropna()
        if len(found):
            groups = found.groupby(setting_of)
            better = found > 0 if higher_is_better(metric, declared) else found < 0
            pairs = over_seeds(groups).assign(ahead=better.groupby(setting_of).sum())
            table = table.join(pairs.add_prefix(f"{metric} vs {control} "))
    return table


def _alike(table: pd.DataFrame, setting: pd.Series, keys: Sequence[str], method: str = "sgd") -> pd.DataFrame:
    """Return the settings of a method that agree with a setting in all keys except the optimizer's."""
    others, found = conditions_of(keys), table[table[METHOD] == method]
    same = (found[others] == setting[others]) | (found[others].isna() & setting[others].isna())
    return found[same.all(axis=1)]


def _costs_vs_sgd(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    rows = []
    for _, setting in table.iterrows():
        sgd = _alike(table, setting, keys)
        ratio = setting["step_ms"] / sgd["step_ms"].median()
        num_steps = sgd["steps"].iloc[0] if sgd["steps"].nunique() == 1 else math.nan
        rows.append({"step_vs_sgd": ratio, "total_vs_sgd": ratio * setting["steps"] / num_steps})
    return pd.DataFrame(rows, index=table.index)


def _control_of(table: pd.DataFrame, keys: Sequence[str], control: str) -> dict[Any, Any]:
    """Return {setting: the setting of `control` to compare with}, for each setting with exactly one such setting."""
    found = {}
    for index, setting in table.iterrows():
        alike = _alike(table, setting, keys, control).index
        if len(alike) == 1 and setting[METHOD] != control:
            found[index] = alike[0]
    return found


def _differences(runs: pd.DataFrame, control: pd.DataFrame, metric: str) -> pd.Series:
    """Return each run's metric minus the metric of the control's run with the same seed.

    If several runs have one seed, the pairs are not defined and the result is empty.
    """
    if runs["seed"].duplicated().any() or control["seed"].duplicated().any():
        return pd.Series(dtype=float)
    return runs[metric] - runs["seed"].map(control.set_index("seed")[metric])


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
