"""One optimizer step: seed, learning rate, the mixture of the batch, and the closures that the optimizer calls."""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.config import TrainConfig
from fsamlab.data import Batch
from fsamlab.optim import SharpnessAware
from fsamlab.seeding import Stream, derive_seed
from fsamlab.train.closures import Passes
from fsamlab.train.graphed import GraphedSteps, Inputs, Made, MetricSums
from fsamlab.train.schedule import lr_factor
from fsamlab.train.work import Work


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's default generators: that of the CPU, and where `device` is a GPU those of the GPUs.

    `torch.manual_seed` does the same. But in a program that uses no GPU each of its calls formats the stack of calls,
    for a message at the start of CUDA, and that takes longer than the base step of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


class Stepper:
    """Makes the optimizer steps of a training; all that a step draws and sets follows from its number.

    Args:
        passes: the forward and backward passes.
        optimizer: any variant. The `initial_lr` of its param_groups is the peak of the schedule.
        cfg: the schedule and the accumulation of gradients.
        seed: decides dropout and all other random numbers of a step.
        total_steps: the length of the schedule.
        warmup_steps: the number of steps in which the learning rate rises.
    """

    def __init__(
        self,
        passes: Passes,
        optimizer: SharpnessAware,
        cfg: TrainConfig,
        seed: int,
        total_steps: int,
        warmup_steps: int,
    ) -> None:
        self.passes, self.optimizer, self.cfg, self.seed = passes, optimizer, cfg, seed
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self._trains = False  # whether the model was set to train mode before the first step
        self.graphed: GraphedSteps | None = None  # made with the first step, since measurements make none

    def make(self, batch: Batch, step: int) -> tuple[Tensor, MetricSums]:
        """Make step number `step` on `batch`.

        Returns:
            The loss that the optimizer returns, and the sums of the task's metrics in the first pass over the batch.
        """
        passes, optimizer = self.passes, self.optimizer
        ranks = passes.parallel.ranks
        own = (ranks.rank,) if ranks.size > 1 else ()  # dropout masks of one rank are not those of another
        seed_generators(derive_seed(self.seed, Stream.STEP, step, *own), passes.device)
        factor = lr_factor(self.cfg, step, self.total_steps, self.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        if not (self._trains and passes.model.training):  # an evaluation has left the model in eval mode
            passes.model.train()
            self._trains = True
        passes.work = Work(descent=batch.size)
        mixed = passes.mixed(batch, step)  # once: all passes of the step see the same mixture
        inputs = Inputs(mixed, passes.ascent_batch_of(batch, mixed, step), step)
        if self.cfg.cuda_graph and self.graphed is None:
            self.graphed = GraphedSteps(optimizer, self._step, passes.device)
        loss, sums, passes.work = self._step(inputs) if self.graphed is None else self.graphed.make(inputs)
        if passes.parallel.per_rank and not passes.parallel.own_averages:
            optimizer.average_state()
        return loss, sums

    def _step(self, inputs: Inputs) -> Made:
        """Make the coming step on these batches; in a captured step no part of this code runs again."""
        passes, optimizer = self.passes, self.optimizer
        sums: MetricSums = {}
        if self.cfg.accumulate_mode == "per_micro_batch" and self.cfg.accumulate_steps > 1:
            closures = [passes.closure([part], sums) for part in passes.micro_batches(inputs.batch)]
            loss = optimizer.step_micro(closures)
        else:
            descent = passes.closure(passes.micro_batches(inputs.batch), sums)
            ascent = passes.ascent_closure(inputs.other, inputs.batch.size, inputs.step)
            loss = optimizer.step(descent, ascent, passes.reference_closure(inputs.step))
        passes.precision.after_step()
        return loss, sums, passes.work
