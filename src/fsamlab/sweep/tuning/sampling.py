"""The proposal of a trial by Optuna, from the recorded trials alone.

The sampler of each trial is made anew, with a seed that follows from the study's seed and the number of the trial. So a
proposal depends on the record, and not on how often the study was interrupted.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fsamlab.config.space import Dimension, Value
from fsamlab.sweep.tuning.record import FAILED, Group, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def proposed(space: Sequence[Dimension], group: Group, number: int, sampler: str, seed: int) -> Trial:
    """Return the trial with a number.

    Groups with the same space get the same first proposals, so that methods are tried at the same settings.

    Args:
        space: the searched keys; without any, the trial has no parameters.
        group: trials with a value at the first rung are known to the sampler by this value. A failed trial counts as
            worse than all others. Trials of the same batch, still without a value, are avoided.
        number: of the trial.
        sampler: `tpe` or `random`.
        seed: of the study.
    """
    if not space:
        return Trial(number, {})
    import optuna

    distributions = {dimension.name: _distribution(dimension) for dimension in space}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            sampler=_sampler(sampler, seed, number), direction="maximize" if group.higher_is_better else "minimize"
        )
    for trial in group.trials:
        told: dict[str, Any] = {"params": {d.name: _inner(d, trial.params[d.name]) for d in space}}
        if trial.state == FAILED:
            told["state"] = optuna.trial.TrialState.PRUNED  # without a value, the worst for the sampler
        elif trial.values:
            told["value"] = trial.values[0]
        else:
            told["state"] = optuna.trial.TrialState.RUNNING
        study.add_trial(optuna.trial.create_trial(distributions=distributions, **told))
    found = study.ask(distributions).params
    return Trial(number, {d.name: _outer(d, found[d.name]) for d in space})


def _sampler(name: str, seed: int, number: int) -> BaseSampler:
    import optuna

    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    own = int.from_bytes(digest[:4], "big")
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    return optuna.samplers.TPESampler(seed=own, constant_liar=True)


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.values)
    if dimension.kind == "ordered":
        return IntDistribution(0, len(dimension.values) - 1)
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _inner(dimension: Dimension, value: Value) -> Value:
    """Return a recorded value as Optuna's distribution has it: of an ordered range the place."""
    return dimension.values.index(str(value)) if dimension.kind == "ordered" else value


def _outer(dimension: Dimension, value: Any) -> Value:
    """Return a value of Optuna's distribution in the form of the record."""
    if dimension.kind == "ordered":
        return dimension.values[value]
    return str(value) if dimension.kind == "choice" else dimension.written(value)
