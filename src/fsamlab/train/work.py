"""The gradient work of a training: over how many samples its passes ran, and what this is in epochs of SGD."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FORWARD = 1 / 3  # of a pass: the backward pass computes two products of matrices where the forward pass computes one


@dataclass
class Work:
    """The samples that passes ran over; a sample counts once for each pass, on whichever rank it was.

    The counts follow from the sizes of the batches, so nothing is read from a device. Evaluations and measurements are
    no part of the work, and neither is the forward pass that activation checkpointing repeats.

    Attributes:
        descent: samples of the descent batches: one pass over each of them is the work of SGD.
        gradients: samples of all forward and backward passes.
        forwards: samples of forward passes that no backward pass followed.
    """

    descent: int = 0
    gradients: int = 0
    forwards: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.descent + other.descent, self.gradients + other.gradients, self.forwards + other.forwards)

    @property
    def passes_per_step(self) -> float:
        """The mean number of gradient passes of a step, in passes over its descent batch: 1 for SGD, 2 for SAM."""
        return (self.gradients + FORWARD * self.forwards) / self.descent


class Account:
    """The work of the finished steps of a training, which a checkpoint keeps.

    Attributes:
        work: the work so far; None if the training began with a version that did not count.
    """

    def __init__(self) -> None:
        self.work: Work | None = Work()

    def add(self, work: Work) -> None:
        """Count the work of a finished step."""
        if self.work is not None:
            self.work += work

    def cost(self, epochs: float) -> dict[str, float]:
        """Return the passes for the summary of a run of `epochs` epochs; nothing where they are not known."""
        if self.work is None or not self.work.descent:
            return {}
        per_step = self.work.passes_per_step
        return {"cost/passes_per_step": per_step, "cost/passes": per_step * epochs}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts; the key is part of the trainer's state."""
        return {"work": None if self.work is None else asdict(self.work)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; other keys of `state` are not read."""
        found = state.get("work")
        self.work = None if found is None else Work(**found)
