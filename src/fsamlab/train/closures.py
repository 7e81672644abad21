"""The forward and backward passes of a training step, as the closures that an optimizer takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.config import TrainConfig
from fsamlab.data import Batch, Mixing, TrainSource
from fsamlab.data.interface import concatenate
from fsamlab.diagnostics import Sampling
from fsamlab.optim import Pass, SharpnessAware
from fsamlab.task import Task, cast, detached
from fsamlab.train.compiled import compiled, with_any_size
from fsamlab.train.precision import Precision
from fsamlab.train.recomputation import Recomputation


@dataclass(frozen=True)
class AscentBatch:
    """Which samples the ascent batch of a variant has, if the variant has an ascent batch.

    Attributes:
        size: number of samples; None means the size of the descent batch.
        share: the number of samples as a share of the descent batch instead.
        nested: whether ascent batch and descent batch share samples.
    """

    size: int | None = None
    share: float | None = None
    nested: bool = False

    def samples(self, descent_size: int) -> int:
        """Return the number of samples beside a descent batch of `descent_size` samples, at least one."""
        return self.size or max(1, round((self.share or 1.0) * descent_size))


class Passes:
    """Runs a model over batches under the task, precision and accumulation of a run.

    Args:
        model: the network.
        task: gives the forward pass, the losses and the metrics.
        optimizer: tells which closures it needs, and clears the gradients.
        train: the training set.
        cfg: precision, accumulation and memory format.
        device: the device of the model.
        ascent_batch: which samples the ascent batch has.
        poll: called between the batches of a pass over the full training set; it may raise to leave.
        mixing: mixes the batches of all passes; None means unmixed batches.
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
        ascent_batch: AscentBatch,
        poll: Callable[[], None],
        mixing: Mixing | None = None,
    ) -> None:
        self.model, self.task, self.optimizer, self.train = model, task, optimizer, train
        self.cfg, self.device = cfg, device
        self.ascent_batch, self.poll, self.mixing = ascent_batch, poll, mixing
        self.precision = Precision(cfg.precision, device, optimizer.scaling.scaler)
        self.memory_format = torch.channels_last if cfg.channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        self.recomputation = Recomputation(model, cfg.activation_checkpointing)
        self.network = compiled(model, device) if cfg.compile else model  # what training passes run

    def closure(self, parts: list[Batch], sums: dict[str, list[Tensor]]) -> BatchClosure:
        """Return the closure of the batch made of `parts`.

        Only the first call of the closure in a step adds the sums of the task's metrics to `sums`.
        """
        return BatchClosure(self, parts, sums)

    def backward(self, batch: Batch, weight: float) -> tuple[Any, Tensor]:
        """Add `weight` times the batch's mean gradient to .grad; return outputs and the weighted loss, detached.

        In fp16 the gradient in .grad is scaled, and the returned loss is not.
        """
        with self.precision.products():
            with self.recomputation.forward():
                outputs, loss = self.forward(batch, self.task)
            if weight != 1.0:  # autograd adds up the gradients of the parts, so the weighted parts give the mean
                loss = loss * weight
            with self.recomputation.backward():
                self.precision.scaled(loss).backward()
        return detached(outputs), loss.detach()

    def forward(self, batch: Batch, task: Task, model: nn.Module | None = None) -> tuple[Any, Tensor]:
        """Return the outputs in float32, whatever precision the model computes in, and the batch's mean loss.

        `model` is evaluated in place of the network of the training, which may be compiled.
        """
        with self.precision.products(), self.precision.autocast():
            outputs = task.forward(self.network if model is None else model, self.laid_out(batch))
        outputs = cast(outputs, torch.float32)
        return outputs, task.loss(outputs, batch)

    def laid_out(self, batch: Batch) -> Batch:
        """Return the batch with images in the memory format of the model; other inputs stay as they are."""
        inputs = batch.inputs
        if inputs.dim() == 4:  # `channels_last` is defined for images alone
            inputs = inputs.contiguous(memory_format=self.memory_format)
        if self.cfg.compile:
            inputs = with_any_size(inputs)
        return Batch(inputs, batch.targets, batch.indices)

    def micro_batches(self, batch: Batch) -> list[Batch]:
        """Cut a batch into `train.accumulate_steps` parts, whose sizes may differ."""
        return self.pieces(batch, self.cfg.accumulate_steps)

    @staticmethod
    def pieces(batch: Batch, n: int) -> list[Batch]:
        """Cut a batch into at most `n` parts, whose sizes may differ."""
        if n == 1:
            return [batch]
        pieces = zip(batch.inputs.chunk(n), batch.targets.chunk(n), batch.indices.chunk(n))
        return [Batch(inputs, targets, indices) for inputs, targets, indices in pieces]

    def mixed(self, batch: Batch, step: int) -> Batch:
        """Return the descent batch of a step as the passes see it: mixed, where the training mixes its batches."""
        return batch if self.mixing is None else self.mixing.descent(batch, step)

    def ascent_closure(self, batch: Batch, mixed: Batch, step: int) -> Callable[[], Tensor | Pass] | None:
        """Return the closure of the ascent gradient of this step.

        None if the step does not perturb, or if the ascent gradient is the gradient of the descent batch.

        Args:
            batch: the descent batch as the data give it.
            mixed: the result of :meth:`mixed` for this batch.
            step: the global step.
        """
        if not self.optimizer.perturbs:
            return None  # a plain step needs no ascent batch
        need = self.optimizer.needs_ascent
        if need == "full":
            return partial(self.full_gradient, step)
        if need == "other_batch":
            other = self._other_batch(batch, mixed, step)
            if self.cfg.accumulate_steps == 1:
                return self.closure([other], {})
            # no part is larger than a micro-batch of the descent batch, for which there is memory
            return self.closure(self.pieces(other, -(-len(other) * self.cfg.accumulate_steps // len(batch))), {})
        return None

    def _other_batch(self, batch: Batch, mixed: Batch, step: int) -> Batch:
        """Return the ascent batch of a step; samples that it shares with the descent batch are mixed as in that one."""
        nested = self.ascent_batch.nested
        other = self.train.other(step, self.ascent_batch.samples(len(batch)), batch if nested else None)
        if self.mixing is None:
            return other
        if not nested:
            return self.mixing.ascent(other, step)
        if len(other) <= len(mixed):
            return mixed.first(len(other))
        more = _at(other, torch.arange(len(mixed), len(other)))
        return concatenate([mixed, self.mixing.ascent(more, step)])

    def reference_closure(self, step: int) -> Callable[[], Tensor] | None:
        """Return the closure of the full gradient, for variants whose reference is the full gradient; else None."""
        return partial(self.full_gradient, step) if self.optimizer.needs_reference else None

    def full_gradient(self, step: int) -> Tensor:
        """Leave the gradient of the mean loss over the whole training set in .grad; return this loss, float64 ()."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, part in enumerate(self.train.full(step)):
            self.poll()
            part = part if self.mixing is None else self.mixing.full(part, step, number)
            total += self.backward(part, len(part) / self.train.num_samples)[1]
        return total

    def sampling(self, batch_size: int, steps_per_epoch: int) -> Sampling:
        """Return how the steps draw their ascent batches, for the prediction of the EMA's quality."""
        other = self.optimizer.needs_ascent == "other_batch"
        return Sampling(
            self.train.num_samples,
            batch_size,
            steps_per_epoch,
            ascent_size=self.ascent_batch.samples(batch_size) if other else None,
            parts=self.cfg.accumulate_steps if self.cfg.accumulate_mode == "per_micro_batch" else 1,
            independent=other and not self.ascent_batch.nested,
        )


class BatchClosure:
    """The closure of the batch made of `parts`: its mean loss, with the gradient left in .grad.

    A closure may run several times in a step, at w and at w + eps, and on a part of its samples.
    """

    def __init__(self, passes: Passes, parts: list[Batch], sums: dict[str, list[Tensor]]) -> None:
        self.passes, self.parts, self.sums = passes, parts, sums
        self.first = True

    def __call__(self) -> Tensor | Pass:
        """Run forward and backward on the batch; the first call adds the sums of the task's metrics."""
        made = self._run(self.parts, self.sums if self.first else None)
        self.first = False
        return made

    def losses(self) -> Tensor:
        """Return the losses (n,) of all samples, without a backward pass."""
        with torch.no_grad():
            found = [self.passes.task.losses(self.passes.forward(b, self.passes.task)[0], b) for b in self.parts]
        return torch.cat(found)

    def on(self, samples: Tensor) -> Tensor | Pass:
        """Run forward and backward on the samples at these positions (int64)."""
        chosen, start = [], 0
        for part in self.parts:
            inside = samples[(samples >= start) & (samples < start + len(part))] - start
            start += len(part)
            if len(inside):
                chosen.append(_at(part, inside))
        return self._run(chosen, None)

    def _run(self, parts: list[Batch], sums: dict[str, list[Tensor]] | None) -> Tensor | Pass:
        passes, total = self.passes, sum(len(part) for part in parts)
        passes.optimizer.zero_grad(set_to_none=True)
        losses, of_samples = [], []
        for part in parts:
            outputs, loss = passes.backward(part, len(part) / total)
            losses.append(loss)
            if passes.optimizer.needs_sample_losses:
                of_samples.append(passes.task.losses(outputs, part))
            if sums is not None:
                for key, value in passes.task.metrics(outputs, part).items():
                    sums.setdefault(key, []).append(value)
        loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        return Pass(loss, torch.cat(of_samples)) if of_samples else loss


def _at(batch: Batch, positions: Tensor) -> Batch:
    tensors = (batch.inputs, batch.targets, batch.indices)
    return Batch(*(x[positions.to(x.device)] for x in tensors))
