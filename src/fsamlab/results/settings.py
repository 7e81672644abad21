"""Finished runs -> a table with a row for each setting: means and spreads over seeds, pairs with SGD, clear bests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fsamlab.results.methods import METHODS
from fsamlab.terminal.text import percent

ACCURACIES = ("best/test/acc1", "final/test/acc1")
METHOD = "optimizer.name"
MAX_NAMED = 4  # of several keys or values in a line


def numbers(values: pd.Series) -> pd.Series:
    """Return values as floats, NaN where one is missing or infinite: neither may enter a mean."""
    found = pd.to_numeric(values, errors="coerce").astype(float)
    return found.where(found.abs() < math.inf)


def as_text(values: pd.Series) -> pd.Series:
    """Return config values as texts, to tell settings apart; a missing one is a text too.

    `astype(str)` keeps missing values missing from pandas 3 on, and neither groupby nor nunique counts those.
    """
    return values.map(lambda value: "null" if value is None or value != value else str(value))


def plain(value: Any) -> str:
    """Return a config value as it is typed, for a table; one that is missing or None is null."""
    if value is None or value != value:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def more(texts: Sequence[str]) -> str:
    """Return how many of several texts are not named."""
    return f" and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""


def by_setting(finished: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str] = ACCURACIES) -> pd.DataFrame:
    """Return one row for each setting: n, mean and standard deviation (n - 1) of `metrics`, relative step time.

    `... n` is the number of runs that have a finite value of the metric. `step_vs_sgd` is the median time of a step
    over that of plain SGD in the same remaining setting, `total_vs_sgd` the same with the number of steps in it.
    `... vs sgd mean`, `std` and `n` are of the differences to SGD's runs, seed by seed, and `ahead` how many of them
    are positive: a seed is one draw of the validation split, the label noise and the initial weights, the same for all
    methods.

    Args:
        finished: finished runs, each once.
        keys: the config keys that tell the settings apart, METHOD among them.
        metrics: columns of `finished`; a column that is not there is left out.
    """
    finished = finished.assign(**{metric: numbers(finished[metric]) for metric in metrics if metric in finished})
    rows, members = [], []
    for values, runs in finished.groupby(list(keys), sort=False, dropna=False):
        row: dict[str, Any] = dict(zip(keys, values if isinstance(values, tuple) else (values,)))
        row["n"] = len(runs)
        for metric in metrics:
            if metric in runs and runs[metric].notna().any():
                row[f"{metric} mean"], row[f"{metric} std"] = runs[metric].mean(), runs[metric].std(ddof=1)
                row[f"{metric} n"] = runs[metric].count()
        row["step_ms"] = runs["cost/step_ms"].median() if "cost/step_ms" in runs else float("nan")
        row["steps"] = runs["cost/steps"].mean() if "cost/steps" in runs else float("nan")
        rows.append(row)
        members.append(runs)
    table = pd.DataFrame(rows)
    others = conditions_of(keys)
    sgd = table[table[METHOD] == "sgd"]
    compared: list[dict[str, float]] = []
    for (_, setting), runs in zip(table.iterrows(), members):
        alike = (sgd[others] == setting[others]) | (sgd[others].isna() & setting[others].isna())
        same = sgd[alike.all(axis=1)]
        found = {"step_vs_sgd": setting["step_ms"] / same["step_ms"].median()}
        num_steps = same["steps"].iloc[0] if same["steps"].nunique() == 1 else float("nan")
        found["total_vs_sgd"] = found["step_vs_sgd"] * setting["steps"] / num_steps
        if len(same) == 1 and setting[METHOD] != "sgd":  # of several SGDs none is the one to compare with
            for metric in metrics:
                found.update(_paired(runs, members[same.index[0]], metric))
        compared.append(found)
    return table.join(pd.DataFrame(compared))


def keys_of(table: pd.DataFrame) -> list[str]:
    """Return the config keys that tell the rows of :func:`by_setting` apart."""
    return [str(key) for key in table.columns[: table.columns.get_loc("n")]]


def in_order(table: pd.DataFrame) -> tuple[list[str], list[dict[Any, Any]]]:
    """Return the keys and the rows of :func:`by_setting` for a table that is read from top to bottom.

    Methods come in the order of METHODS, then the other keys by their values.
    """
    keys = keys_of(table)
    return keys, sorted(table.to_dict("records"), key=lambda row: [_place(key, row[key]) for key in keys])


def _place(key: str, value: Any) -> tuple[int, float, str]:
    """Return where a value of a config key comes: methods as in the style's table, numbers by size, null first."""
    if key == METHOD:
        return (list(METHODS).index(value) if value in METHODS else len(METHODS), 0.0, str(value))
    if value is None or value != value:
        return (0, 0.0, "")
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


def _paired(runs: pd.DataFrame, sgd: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return mean, standard deviation (n - 1), number and positive ones of a metric's differences, seed by seed."""
    if metric not in runs or any(frame["seed"].duplicated().any() for frame in (runs, sgd)):
        return {}
    difference = (runs.set_index("seed")[metric] - sgd.set_index("seed")[metric]).dropna()
    name = f"{metric} vs sgd"
    values = {"mean": difference.mean(), "std": difference.std(ddof=1), "n": len(difference)}
    values["ahead"] = int((difference > 0).sum())
    return {f"{name} {key}": value for key, value in values.items()} if len(difference) else {}


def own_n(n: int, told: int | None) -> str:
    """Return what stands behind a mean over n runs, where the reader was told of another n, or of none."""
    return "" if n == told else f" ({n})" if told is None else f" (n = {n})"


def gain(setting: Mapping[Any, Any] | pd.Series, metric: str) -> str:
    """Return `+3.96 ± 1.83 (3 of 3)`: the points gained over SGD, and in how many of the seeds; `-` where unknown."""
    mean, std, n, ahead = (setting[f"{metric} vs sgd {name}"] for name in ("mean", "std", "n", "ahead"))
    if math.isnan(mean):
        return "-"
    spread = "" if math.isnan(std) else f" ± {percent(std)}"
    return f"{100 * mean:+.2f}{spread} ({ahead:.0f} of {n:.0f})"


def clear_best(table: pd.DataFrame, metric: str) -> set[Any]:
    """Return the index of each setting of :func:`by_setting` that is best in `metric` by more than the spread.

    Compared are the settings that agree in all but the optimizer's keys. The best one is clear when its mean is
    above the second's by more than the larger of the two standard deviations; without both there is no answer.
    """
    mean, std = f"{metric} mean", f"{metric} std"
    if mean not in table:
        return set()
    others = conditions_of(keys_of(table))
    best = set()
    for _, rivals in table.groupby(others, dropna=False) if others else [((), table)]:
        ranked = rivals[rivals[mean].notna()].sort_values(mean, ascending=False, kind="stable")
        if len(ranked) < 2:
            continue
        first, second = ranked.iloc[0], ranked.iloc[1]
        if clearly_ahead(first[mean], first[std], second[mean], second[std]):
            best.add(ranked.index[0])
    return best


def clearly_ahead(mean: float, std: float, other_mean: float, other_std: float) -> bool:
    """Return whether a mean's lead exceeds the larger of the two standard deviations; false where one is not known."""
    return not (math.isnan(std) or math.isnan(other_std)) and mean - other_mean > max(std, other_std)


def conditions_of(keys: Sequence[str]) -> list[str]:
    """Return the keys in which settings that are compared agree: all but the optimizer's (SGD has no rho)."""
    return [key for key in keys if not key.startswith("optimizer.")]
