"""The gradient passes of runs: as the run has counted them, or as the settings of an older run determine them.

The unit is an epoch of SGD: one forward and backward pass over each descent batch of an epoch. A forward pass alone is
a third of a pass. docs/metrics.md defines the keys.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from fsamlab.axes.ascent import ASCENTS
from fsamlab.axes.axis import FULL, OTHER_BATCH
from fsamlab.axes.descent import DESCENTS
from fsamlab.axes.reference import REFERENCES

PASSES, EPOCHS = "cost/passes", "cost/epochs"
TOLERANCE = 0.03  # trainings whose passes differ by less, as a share of the larger number, have equal compute
FORWARD = 1 / 3

# what decides the passes of a run that has not counted them, with the default of a setting that the run does not record
DECIDE: dict[str, Any] = {
    **{f"optimizer.{axis}": None for axis in ("ascent", "reference")},
    **{"optimizer.descent": "perturbed", "optimizer.when": "every", "optimizer.every": 1},
    **{"optimizer.start": 0.0, "optimizer.stop": 1.0, "optimizer.full_every_steps": 1},
    **{f"optimizer.{key}": None for key in ("ascent_steps", "ascent_batch_size", "ascent_share", "gamma")},
    **{key: None for key in ("data.batch_size", "data/num_train", "cost/steps", EPOCHS)},
}


def total_passes(runs: pd.DataFrame) -> pd.Series:
    """Return the passes of each run's whole training, in epochs of SGD; NaN where they are not known.

    A run that has not counted its passes has the number that its settings determine. They do not where the gradients
    decide (`when=adaptive`), in a part of a training, or with a choice from another package.
    """
    unknown = pd.Series(math.nan, index=runs.index)
    found = pd.to_numeric(runs.get(PASSES, unknown), errors="coerce").astype(float)
    missing = found.isna()
    if not missing.any() or "optimizer.ascent" not in runs or EPOCHS not in runs:
        return found
    columns = [runs.loc[missing, key].to_list() if key in runs else [None] * int(missing.sum()) for key in DECIDE]
    derived = [_derived(*(None if value != value else value for value in row)) for row in zip(*columns)]
    return found.fillna(pd.Series(derived, index=runs.index[missing], dtype=float))


def passes_per_step(runs: pd.DataFrame) -> pd.Series:
    """Return the mean number of gradient passes of each run's steps; NaN where it is not known."""
    epochs = pd.to_numeric(runs.get(EPOCHS, pd.Series(math.nan, index=runs.index)), errors="coerce")
    return total_passes(runs) / epochs.where(epochs > 0)


def equal(a: float, b: float) -> bool:
    """Return whether two trainings have equal compute; False where a number is not known."""
    return abs(a - b) <= TOLERANCE * max(a, b)


@cache
def _derived(*values: Any) -> float:
    """Return the passes of a training from the values of the keys of DECIDE, NaN where they do not determine them."""
    of = {key: DECIDE[key] if value is None else value for key, value in zip(DECIDE, values)}
    (ascent_name, reference_name, descent_name, when) = (
        of[f"optimizer.{axis}"] for axis in ("ascent", "reference", "descent", "when")
    )
    ascent, descent = ASCENTS.get(ascent_name), DESCENTS.get(descent_name)
    reference = REFERENCES.get(reference_name) if reference_name is not None else None
    epochs = of[EPOCHS]
    if ascent is None or descent is None or epochs is None or (reference_name is not None and reference is None):
        return math.nan
    if not ascent.perturbs:
        return float(epochs)
    if when != "every" or (of["optimizer.start"], of["optimizer.stop"]) != (0, 1):
        return math.nan
    sizes = _sizes(of["data.batch_size"], of["data/num_train"], of["cost/steps"], epochs)
    if sizes is None:
        return math.nan
    steps = np.arange(len(sizes))
    turn = steps % of["optimizer.every"] == 0
    num_ascents = of["optimizer.ascent_steps"] or 1 if ascent_name == "multi_step" else 1
    last = sizes.astype(float)  # samples of the pass at w + eps
    if descent.selects:
        last = np.maximum(1, np.floor(of["optimizer.gamma"] * sizes + 1e-9)) + FORWARD * sizes
    perturbed = num_ascents * last + (sizes if ascent.has_clean_loss else 0)
    if ascent.needs == OTHER_BATCH:
        size, share = of["optimizer.ascent_batch_size"], of["optimizer.ascent_share"]
        perturbed = perturbed + (size or np.maximum(1, np.round((share or 1.0) * sizes)))
    samples = float(np.where(turn, perturbed, sizes).sum())
    if FULL in (ascent.needs, reference.needs if reference else None):
        apart = of["optimizer.full_every_steps"]
        if apart > 1 and of["optimizer.every"] > 1:
            return math.nan
        samples += of["data/num_train"] * math.ceil(turn.sum() / apart)
    return samples / float(sizes.sum()) * epochs


def _sizes(batch: Any, num_train: Any, steps: Any, epochs: float) -> np.ndarray | None:
    """Return the number of samples of the descent batch of each step; None where a number is not known."""
    if None in (batch, num_train, steps) or not epochs:
        return None
    per_epoch = round(steps / epochs)
    rest = num_train - (per_epoch - 1) * batch  # of the last step; more than a batch with data.drop_last
    if not 0 < rest < 2 * batch:
        return None
    one = np.full(per_epoch, int(batch))
    one[-1] = min(batch, rest)
    return np.resize(one, int(steps))
