"""The forward and backward passes of a training step, as the closures that an optimizer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.config import TrainConfig
from fsamlab.data import Batch, Mixing, TrainSource
from fsamlab.data.cut import Cut, Piece
from fsamlab.data.interface import concatenate
from fsamlab.diagnostics import Sampling
from fsamlab.optim import Pass, SharpnessAware
from fsamlab.task import Task, cast, detached
from fsamlab.train.compiled import compiled, with_any_size
from fsamlab.train.parallel import Parallel
from fsamlab.train.precision import Precision
from fsamlab.train.recomputation import Recomputation
from fsamlab.train.work import Work

Part = tuple[Piece, Batch]  # what this rank computes of a micro-batch, with its place in the batch


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
        parallel: the ranks that train the model together.

    Attributes:
        work: over how many samples the passes of the present step ran; the caller begins a new one with each step.
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
        parallel: Parallel,
        mixing: Mixing | None = None,
    ) -> None:
        self.parallel = parallel
        self.model, self.task, self.optimizer, self.train = model, task, optimizer, train
        self.cfg, self.device = cfg, device
        self.ascent_batch, self.poll, self.mixing = ascent_batch, poll, mixing
        self.precision = Precision(cfg.precision, device, optimizer.scaling.scaler)
        self.memory_format = torch.channels_last if cfg.channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        self.recomputation = Recomputation(model, cfg.activation_checkpointing)
        # what training passes run
        self.network = parallel.replicated(compiled(model, device) if cfg.compile else model)
        self.work = Work()

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on; a source that can, gives a rank its own samples."""
        return self.train.batches(epoch, start, **self._cut(self.cfg.accumulate_steps, self.ascent_batch.nested))

    def _cut(self, parts: int, nested: bool = False) -> dict[str, Cut]:
        """Return the argument by which a source gives a rank its own samples, where no other samples are needed."""
        if self.parallel.ranks.size == 1 or self.mixing is not None or nested:
            return {}
        return {"cut": self.parallel.cut(parts)} if getattr(self.train, "takes_cut", False) else {}

    def closure(self, parts: list[Part], sums: dict[str, list[Tensor]] | None) -> BatchClosure:
        """Return the closure of the batch made of `parts`.

        Only the first call of the closure in a step adds the sums of the task's metrics to `sums`, if given.
        """
        return BatchClosure(self, parts, sums)

    def backward(self, batch: Batch, weight: float, averaged: bool = True) -> tuple[Any, Tensor]:
        """Add `weight` times the batch's mean gradient to .grad; return outputs and the weighted loss, detached.

        In fp16 the gradient in .grad is scaled, and the returned loss is not. With several ranks .grad is afterwards
        the average over the ranks, if `averaged`.
        """
        with self.precision.products(), self.parallel.averaging(averaged):
            with self.recomputation.forward(), self.parallel.forwarding(weight != 0.0):
                outputs, loss = self.forward(batch, self.task)
            if weight != 1.0:  # autograd adds up the gradients of the parts, so the weighted parts give the mean
                loss = loss * weight
            with self.recomputation.backward():
                self.precision.scaled(loss).backward()
        return detached(outputs), loss.detach()

    def forward(self, batch: Batch, task: Task, model: nn.Module | None = None) -> tuple[Any, Tensor]:
        """Return the outputs in float32, whatever precision the model computes in, and the batch's mean loss.

        `model` is evaluated in place of the network of the training, which may be compiled, and average gradients.
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

    def micro_batches(self, batch: Batch) -> list[Part]:
        """Cut a batch into `train.accumulate_steps` parts, whose sizes may differ; return this rank's samples."""
        return self.parallel.cut(self.cfg.accumulate_steps).of(batch)

    def mixed(self, batch: Batch, step: int) -> Batch:
        """Return the descent batch of a step as the passes see it: mixed, where the training mixes its batches."""
        return batch if self.mixing is None else self.mixing.descent(batch, step)

    def ascent_batch_of(self, batch: Batch, mixed: Batch, step: int) -> Batch | None:
        """Return the ascent batch of this step; samples that are in the descent batch too are mixed as there.

        None if the step does not perturb, or if the variant has no ascent batch of its own.

        Args:
            batch: the descent batch as the data give it.
            mixed: the result of :meth:`mixed` for this batch.
            step: the global step.
        """
        if not self.optimizer.perturbs or self.optimizer.needs_ascent != "other_batch":
            return None
        size = self.ascent_batch.samples(batch.size)
        return self._other_batch(batch, mixed, step, size, self._parts_of_other(size, batch.size))

    def ascent_closure(self, other: Batch | None, size: int, step: int) -> Callable[[], Tensor | Pass] | None:
        """Return the closure of the ascent gradient of this step.

        None if the step does not perturb, or if the ascent gradient is the gradient of the descent batch.

        Args:
            other: the result of :meth:`ascent_batch_of`.
            size: of the descent batch.
            step: the global step.
        """
        if self.optimizer.perturbs and self.optimizer.needs_ascent == "full":
            return partial(self.full_gradient, step)
        if other is None:
            return None
        many = self._parts_of_other(other.size, size)
        return self.closure(self.parallel.cut(many).of(other), None)

    def _parts_of_other(self, size: int, of_descent: int) -> int:
        """Return into how many parts an ascent batch is cut: none larger than a micro-batch of the descent batch."""
        parts = self.cfg.accumulate_steps
        return 1 if parts == 1 else -(-size * parts // of_descent)  # for a micro-batch there is memory

    def _other_batch(self, batch: Batch, mixed: Batch, step: int, size: int, parts: int) -> Batch:
        nested = self.ascent_batch.nested
        other = self.train.other(step, size, batch if nested else None, **self._cut(parts, nested))
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
        parallel = self.parallel
        chunks = self.train.full(step, **self._cut(1))
        for number, (chunk, is_last) in enumerate(parallel.with_last(chunks)):
            self.poll()
            chunk = chunk if self.mixing is None else self.mixing.full(chunk, step, number)
            ((piece, own),) = parallel.cut(1).of(chunk)
            weight = parallel.weight(len(own), self.train.num_samples) if piece.counts else 0.0
            total += self.backward(own, weight, is_last)[1]
        self.work.gradients += self.train.num_samples
        return parallel.mean(total)

    def sampling(self, batch_size: int, steps_per_epoch: int) -> Sampling:
        """Return how the steps draw their ascent batches, for the prediction of the EMA's quality."""
        other = self.optimizer.needs_ascent == "other_batch"
        return Sampling(
            self.train.num_samples,
            batch_size,
            steps_per_epoch,
            ascent_size=self.ascent_batch.samples(batch_size) if other else None,
            parts=self._parts_of_average(),
            independent=other and not self.ascent_batch.nested,
        )

    def _parts_of_average(self) -> int:
        """Return into how many parts a batch is cut whose gradients enter an EMA one by one."""
        if self.parallel.own_averages:
            return self.parallel.ranks.size
        return self.cfg.accumulate_steps if self.cfg.accumulate_mode == "per_micro_batch" else 1


class BatchClosure:
    """The closure of the batch made of `parts`: its mean loss, with the gradient left in .grad.

    A closure may run several times in a step, at w and at w + eps, and on a part of its samples. With several ranks
    each computes its own samples; loss, losses of the samples, and gradients are those of the batch on all ranks. The
    exception is `train.perturbation=per_rank`, where the first pass of a step that perturbs leaves the gradient of the
    rank's own samples.
    """

    def __init__(self, passes: Passes, parts: list[Part], sums: dict[str, list[Tensor]] | None) -> None:
        self.passes, self.parts, self.sums = passes, parts, sums
        self.total = sum(piece.whole for piece, _ in parts)
        self.first = True

    def __call__(self) -> Tensor | Pass:
        """Run forward and backward on the batch; the first call adds the sums of the task's metrics."""
        averaged = not (self.first and self.passes.parallel.per_rank and self.passes.optimizer.perturbs)
        loss, of_samples = self._run(self.parts, self.total, self.sums if self.first else None, averaged)
        self.first = False
        return self._made(loss, of_samples)

    def losses(self) -> Tensor:
        """Return the losses (n,) of all samples, without a backward pass."""
        passes, found = self.passes, []
        for piece, part in self.parts:
            with torch.no_grad(), passes.parallel.forwarding(piece.counts):
                outputs, _ = passes.forward(part, passes.task)
                found.append((_positions(piece), passes.task.losses(outputs, part)))
        passes.work.forwards += self.total
        return self.passes.parallel.placed(found, self.total)

    def on(self, samples: Tensor) -> Tensor | Pass:
        """Run forward and backward on the samples at these positions (int64)."""
        chosen: list[Part] = []
        positions = []
        for piece, part in self.parts:
            # In one part all samples are inside; of several parts the host has to know how many each has.
            inside = samples if len(piece) == self.total else samples[(samples >= piece.start) & (samples < piece.stop)]
            if len(inside) and piece.counts:
                chosen.append((piece, _at(part, inside - piece.start)))
                positions.append(inside)
            elif self.passes.parallel.ranks.size > 1:  # all ranks make as many passes: here one with weight 0
                chosen.append((replace(piece, counts=False), part.first(1)))
                positions.append(inside[:0])
        loss, of_samples = self._run(chosen, len(samples), None, True)
        return self._made(loss, [(at, x[: len(at)]) for at, (_, x) in zip(positions, of_samples)], samples)

    def _made(self, loss: Tensor, of_samples: list[tuple[Tensor, Tensor]], at: Tensor | None = None) -> Tensor | Pass:
        """Return the loss, and the losses of the samples where a choice needs them."""
        if not of_samples:
            return loss
        losses = self.passes.parallel.placed(of_samples, self.total)
        return Pass(loss, losses if at is None or len(losses) == len(at) else losses[at])

    def _run(
        self, parts: list[Part], total: int, sums: dict[str, list[Tensor]] | None, averaged: bool
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Run forward and backward on `parts`, a pass over `total` samples of all ranks, averaged over the ranks.

        Returns:
            The loss, and for each part (positions, losses) of its samples where a choice needs them.
        """
        passes, parallel = self.passes, self.passes.parallel
        passes.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        of_samples: list[tuple[Tensor, Tensor]] = []
        of_metrics: dict[str, list[Tensor]] = {}
        for k, (piece, part) in enumerate(parts):
            weight = parallel.weight(len(part), total) if piece.counts else 0.0
            outputs, loss = passes.backward(part, weight, averaged and k == len(parts) - 1)
            losses.append(loss)
            if passes.optimizer.needs_sample_losses:
                of_samples.append((_positions(piece), passes.task.losses(outputs, part)))
            if sums is not None:
                for key, value in passes.task.metrics(outputs, part).items():
                    of_metrics.setdefault(key, []).append(value)
        for key, values in parallel.sums(of_metrics).items():
            assert sums is not None
            sums.setdefault(key, []).extend(values)
        passes.work.gradients += total
        return parallel.mean(torch.stack(losses).sum() if len(losses) > 1 else losses[0]), of_samples


def _positions(piece: Piece) -> Tensor:
    """Return the positions (int64) of the samples of a piece in its batch; none for samples of another rank."""
    return torch.arange(piece.start, piece.stop if piece.counts else piece.start)


def _at(batch: Batch, positions: Tensor) -> Batch:
    inputs, targets, indices = (x[positions.to(x.device)] for x in (batch.inputs, batch.targets, batch.indices))
    return Batch(inputs, targets, indices)
