"""Which trials of a group are trained next, and until which epoch: proposals first, then successive halving.

All trials pause at the first rung. One out of `factor` goes on to `factor` times as many epochs, and so on; the last
ones are trained to the end. A run that goes on continues from its checkpoint under the schedule of the whole training.
Each decision follows from recorded values alone, whenever the study was interrupted.
(Successive halving: Jamieson and Talwalkar, AISTATS 2016.)
"""

from __future__ import annotations

from collections.abc import Callable

from fsamlab.sweep.tuning.record import PAUSED, PRUNED, RUNNING, Group, Trial


def rungs(epochs: int, min_epochs: int | None, factor: int) -> list[int]:
    """Return the epochs after which trials pause, and at last the epochs of the whole training."""
    found, rung = [], min_epochs or epochs
    while rung < epochs:
        found.append(rung)
        rung *= factor
    return [*found, epochs]


def due(group: Group, parallel: int, factor: int, propose: Callable[[Group, int], Trial]) -> list[Trial]:
    """Return the trials to train next; none if the group is over.

    Trials that are running, after a kill too, come before new proposals. So a proposal knows the same trials whether
    the study was interrupted or not.

    Args:
        group: its trials are changed: new ones are appended, paused ones go on or are pruned.
        parallel: the number of trials to propose at once.
        factor: of the halving.
        propose: makes the trial with a number.
    """
    running = [trial for trial in group.trials if trial.state == RUNNING]
    if running:
        return running
    first = len(group.trials)
    new = range(first, min(group.size, first + parallel))
    for number in new:
        group.trials.append(propose(group, number))
    return group.trials[first:] if new else _promoted(group, factor)


def _promoted(group: Group, factor: int) -> list[Trial]:
    """Let the best paused trials of the lowest undecided rung go on, and prune the others."""
    for rung in range(len(group.epochs) - 1):
        number = max(1, group.size // factor ** (rung + 1))
        reached = group.ranked(rung)
        going = [trial for trial in reached[:number] if trial.state == PAUSED and len(trial.values) == rung + 1]
        for trial in reached[number:]:
            trial.state = PRUNED if trial.state == PAUSED else trial.state
        for trial in going:
            trial.state, trial.rung = RUNNING, rung + 1
        if going:
            return going
    return []
