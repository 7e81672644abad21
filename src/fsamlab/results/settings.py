"""Settings in tables: their keys, values as texts and numbers, their order, and which setting is clearly best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from fsamlab.axes import rules
from fsamlab.axes.ascent import ASCENTS
from fsamlab.metrics import Declared, higher_is_better
from fsamlab.results.methods import METHODS

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


def keys_of(table: pd.DataFrame) -> list[str]:
    """Return the config keys that tell the rows of :func:`~fsamlab.results.by_setting.by_setting` apart."""
    return [str(key) for key in table.columns[: table.columns.get_loc("n")]]


def in_order(table: pd.DataFrame) -> tuple[list[str], list[dict[Any, Any]]]:
    """Return the config keys and the rows of :func:`~fsamlab.results.by_setting.by_setting`, sorted for a table.

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


def clear_best(table: pd.DataFrame, metric: str, declared: Declared = ()) -> set[Any]:
    """Return the index of each row of a table by setting (by_setting.py) that is clearly best in `metric`.

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
