"""Which value of a setting validation data choose; test data choose nothing."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

from fsamlab.metrics import Headline
from fsamlab.results.settings import numbers


def best_value(runs: pd.DataFrame, values: pd.Series, headline: Headline, what: str, keys: str) -> Hashable | None:
    """Return the value with the best mean validation metric after the last epoch; the first one, if several are equal.

    The mean is over the seeds that have all values. So further seeds may be trained at the chosen value alone: the
    further seeds do not change the choice.

    Args:
        runs: finished runs of one method, with `seed` and the validation metric.
        values: the value of each run; NaN for a run without a value.
        headline: the metric and its direction.
        what: the method, for messages.
        keys: the config keys that the values are values of, for messages.

    Returns:
        The value; None if no run has one.

    Raises:
        ValueError: runs have the same value and seed, no seed has all values, or no run has the validation metric.
    """
    if pd.DataFrame({"value": values, "seed": runs["seed"]}).duplicated().any():
        raise ValueError(f"{what} has the same {keys} and seed more than once: no mean over them")
    tried = sorted(values.dropna().unique())
    if len(tried) < 2:
        return tried[0] if tried else None
    seeds = set.intersection(*(set(runs.loc[values == one, "seed"]) for one in tried))
    if not seeds:
        raise ValueError(f"{what}: no seed has finished runs with all values of {keys}; train the others too")
    common = runs["seed"].isin(seeds)
    metric = headline.chosen_at_end
    found = numbers(runs.loc[common, metric]) if metric in runs else pd.Series(dtype=float)
    means = found.groupby(values[common]).mean().dropna()
    if means.empty:
        raise ValueError(f"{what}: no run has {metric}; data.val_size holds samples out")
    return means.idxmax() if headline.higher_is_better else means.idxmin()
