"""The forward and backward passes of a training step, as the closures that an optimizer takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.config import TrainConfig
from fsamlab.data import Batch, TrainSource
from fsamlab.optim import Pass, SharpnessAware
from fsamlab.task import Task, cast, detached


class Passes:
    """Runs a model over batches under the task, precision and accumulation of a run.

    Args:
        task: what the model is trained for.
        ascent_batch_size, ascent_nested: of the ascent batch of variants with one of their own; None is the
            descent batch's size; a nested one shares samples with the descent batch.
        poll: called between the batches of a pass over the full training set.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: SharpnessAware,
        train: TrainSource,
        cfg: TrainConfig,
        device: torch.device,
        *,
        ascent_batch_size: int | None,
        ascent_nested: bool,
        poll: Callable[[], None],
    ) -> None:
        self.model, self.task, self.optimizer, self.train = model, task, optimizer, train
        self.cfg, self.device = cfg, device
        self.ascent_batch_size, self.ascent_nested, self.poll = ascent_batch_size, ascent_nested, poll
        self.memory_format = torch.channels_last if cfg.channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)

    def closure(self, parts: list[Batch], sums: dict[str, list[Tensor]]) -> Callable[[], Tensor | Pass]:
        """Return the closure of the batch made of `parts`: its mean loss, with the gradient left in .grad.

        What the task's metrics sum in the first call (the clean pass, where there is one) goes to `sums`.
        """
        total = sum(len(part) for part in parts)
        first = True

        def closure() -> Tensor | Pass:
            nonlocal first
            self.optimizer.zero_grad(set_to_none=True)
            losses, of_samples = [], []
            for part in parts:
                outputs, loss = self.backward(part, len(part) / total)
                losses.append(loss)
                if self.optimizer.needs_sample_losses:
                    of_samples.append(self.task.losses(outputs, part))
                if first:
                    for key, value in self.task.metrics(outputs, part).items():
                        sums.setdefault(key, []).append(value)
            first = False
            loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
            return Pass(loss, torch.cat(of_samples)) if of_samples else loss

        return closure

    def backward(self, batch: Batch, weight: float) -> tuple[Any, Tensor]:
        """Add `weight` times the batch's mean gradient to .grad; return outputs and the weighted loss, detached."""
        outputs, loss = self.forward(batch, self.task)
        if weight != 1.0:
            loss = loss * weight
        loss.backward()
        return detached(outputs), loss.detach()

    def forward(self, batch: Batch, task: Task) -> tuple[Any, Tensor]:
        """Return the outputs in float32, whatever precision the model computes in, and the batch's mean loss."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            outputs = task.forward(self.model, self.laid_out(batch))
        outputs = cast(outputs, torch.float32)
        return outputs, task.loss(outputs, batch)

    def laid_out(self, batch: Batch) -> Batch:
        """Return the batch with inputs that lie in memory as the model wants images."""
        inputs = batch.inputs
        if inputs.dim() == 4:  # `channels_last` is defined for images alone
            inputs = inputs.contiguous(memory_format=self.memory_format)
        return Batch(inputs, batch.targets, batch.indices)

    def micro_batches(self, batch: Batch) -> list[Batch]:
        """Cut a batch into `train.accumulate_steps` parts."""
        if self.cfg.accumulate_steps == 1:
            return [batch]
        n = self.cfg.accumulate_steps
        pieces = zip(batch.inputs.chunk(n), batch.targets.chunk(n), batch.indices.chunk(n))
        return [Batch(inputs, targets, indices) for inputs, targets, indices in pieces]

    def ascent_closure(self, batch: Batch, step: int) -> Callable[[], Tensor | Pass] | None:
        """Return the closure of this step's ascent gradient, for variants that take it from other data."""
        if not self.optimizer.perturbs:
            return None  # no other batch is drawn for a plain step
        need = self.optimizer.needs_ascent
        if need == "full":
            return partial(self.full_gradient, step)
        if need == "other_batch":
            size = self.ascent_batch_size or len(batch)
            nested_in = batch if self.ascent_nested else None
            other = self.train.other(step, size, nested_in)
            return self.closure([other], {})
        return None

    def reference_closure(self, step: int) -> Callable[[], Tensor] | None:
        """Return the closure over the full training set for variants whose reference that gradient is."""
        return partial(self.full_gradient, step) if self.optimizer.needs_reference else None

    def full_gradient(self, step: int) -> Tensor:
        """Leave the gradient of the mean loss over the whole training set in .grad; return that loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self.train.full(step):
            self.poll()
            total += self.backward(part, len(part) / self.train.num_samples)[1]
        return total
