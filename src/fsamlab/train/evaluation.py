"""Loss and metrics of a model on validation and test data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fsamlab.data import EvalSource
from fsamlab.train.closures import Passes


@torch.no_grad()
def evaluate(
    passes: Passes, source: EvalSource, poll: Callable[[], None], model: nn.Module | None = None
) -> dict[str, float]:
    """Return the mean loss over `source`, and the task's metrics. The model is left in eval mode.

    Args:
        passes: give the model, the task and the precision.
        source: validation or test data.
        poll: called before each batch; it may raise to leave.
        model: evaluated in place of the model of the training.

    With several ranks each evaluates every n-th batch, and the sums run over all ranks.

    Returns:
        `loss` and one key for each metric. The loss of a classification is the cross-entropy in nats without label
        smoothing, so that runs with different smoothing can be compared.
    """
    model = passes.model if model is None else model
    model.eval()
    task = passes.task.evaluating()
    loss = torch.zeros((), dtype=torch.float64, device=passes.device)
    sums: dict[str, Tensor] = {}
    for batch in passes.parallel.shared(source.batches(), poll):
        outputs, mean = passes.forward(batch, task, model)
        loss += mean.double() * len(batch)
        for key, value in task.metrics(outputs, batch).items():
            sums[key] = sums.get(key, 0) + value.double()
    loss, sums = passes.parallel.total(loss, sums)
    means: dict[str, float] = {}
    for key, total in sums.items():
        parts = {key: float(total)} if total.dim() == 0 else {f"{key}/{i}": x for i, x in enumerate(total.tolist())}
        means |= {name: part / source.num_samples for name, part in parts.items()}
    return {"loss": float(loss) / source.num_samples, **task.values(means)}
