"""Which value of a setting validation data choose; test data choose nothing."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fsamlab.metrics import Headline
from fsamlab.results.settings import numbers


@dataclass(frozen=True)
class Ranking:
    """The tried values of a setting in the order of their means.

    Attributes:
        means: {value: mean of the metric over `seeds`}, the best one first; of equal ones the smaller value first.
        stds: {value: standard deviation over `seeds`}.
        seeds: the seeds that all values have. So further seeds may be trained at the chosen value alone: the further
            seeds do not change the choice.
    """

    means: pd.Series
    stds: pd.Series
    seeds: list[Any]


def ranking(runs: pd.DataFrame, values: pd.Series, metric: str, higher: bool, what: str, keys: str) -> Ranking:
    """Return the values in the order of their mean validation metric.

    Args:
        runs: finished runs of one method, with `seed` and the metric.
        values: the value of each run; NaN for a run without a value.
        metric: a column of the summary.
        higher: whether higher values of the metric are better.
        what: the method, for messages.
        keys: the config keys that the values are values of, for messages.

    Raises:
        ValueError: runs have the same value and seed, no seed has all values, or no run has the validation metric.
    """
    if pd.DataFrame({"value": values, "seed": runs["seed"]}).duplicated().any():
        raise ValueError(f"{what} has the same {keys} and seed more than once: no mean over them")
    tried = sorted(values.dropna().unique())
    seeds = set.intersection(*(set(runs.loc[values == one, "seed"]) for one in tried)) if tried else set()
    if not seeds:
        raise ValueError(f"{what}: no seed has finished runs with all values of {keys}; train the others too")
    common = runs["seed"].isin(seeds)
    found = numbers(runs.loc[common, metric]) if metric in runs else pd.Series(dtype=float)
    groups = found.groupby(values[common])
    means = groups.mean().dropna()
    if means.empty:
        raise ValueError(f"{what}: no run has {metric}; data.val_size holds samples out")
    return Ranking(means.sort_values(ascending=not higher, kind="stable"), groups.std(), sorted(seeds))


def best_value(runs: pd.DataFrame, values: pd.Series, headline: Headline, what: str, keys: str) -> Hashable | None:
    """Return the value with the best mean validation metric after the last epoch; the first one, if several are equal.

    Args:
        runs, values, what, keys: as in :func:`ranking`.
        headline: the metric and its direction.

    Returns:
        The value; None if no run has one. A value without rivals needs no validation metric.

    Raises:
        ValueError: as :func:`ranking`.
    """
    tried = sorted(values.dropna().unique())
    if len(tried) < 2 and not pd.DataFrame({"value": values, "seed": runs["seed"]}).duplicated().any():
        return tried[0] if tried else None
    metric = headline.chosen_at_end
    return ranking(runs, values, metric, headline.higher_is_better, what, keys).means.index[0]
