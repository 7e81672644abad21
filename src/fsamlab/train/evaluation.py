"""Loss and metrics of a model on validation and test data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.data import EvalSource
from fsamlab.task import Task
from fsamlab.train.closures import Passes
from fsamlab.train.unread import read_together

LOSS = "the loss"  # no name of a metric


def evaluate(passes: Passes, source: EvalSource, poll: Callable[[], None]) -> dict[str, float]:
    """Return the mean loss over `source`, and the task's metrics; arguments as in :func:`evaluated`.

    Returns:
        `loss` and one key for each metric. The loss of a classification is the cross-entropy in nats without label
        smoothing, so that runs with different smoothing can be compared.
    """
    (read,) = read_together(evaluated(passes, source, poll))
    return means_of(read, passes.task)


@torch.no_grad()
def evaluated(
    passes: Passes, source: EvalSource, poll: Callable[[], None], model: nn.Module | None = None
) -> dict[str, Tensor]:
    """Return the means over `source`, unread: the loss, and what the task's metrics are made of.

    The model is left in eval mode.

    Args:
        passes: give the model, the task and the precision.
        source: validation or test data.
        poll: called before each batch; it may raise to leave.
        model: evaluated in place of the model of the training.

    With several ranks each evaluates every n-th batch, and the sums run over all ranks.
    """
    model = passes.model if model is None else model
    model.eval()
    task = passes.task.evaluating()
    loss = torch.zeros((), dtype=torch.float64, device=passes.device)
    sums: dict[str, Tensor] = {}
    for batch in passes.parallel.shared(source, poll):
        outputs, mean = passes.forward(batch, task, model)
        loss += mean.double() * len(batch)
        for key, value in task.metrics(outputs, batch).items():
            sums[key] = sums.get(key, 0) + value.double()
    loss, sums = passes.parallel.total(loss, sums)
    return {LOSS: loss / source.num_samples, **{key: total / source.num_samples for key, total in sums.items()}}


def means_of(read: dict[str, Any], task: Task) -> dict[str, float]:
    """Return loss and metrics, made of the means of :func:`evaluated` after they were read."""
    means: dict[str, float] = {}
    for key, mean in read.items():
        means |= {f"{key}/{i}": x for i, x in enumerate(mean)} if isinstance(mean, list) else {key: mean}
    loss = means.pop(LOSS)
    return {"loss": loss, **task.evaluating().values(means)}
