"""Fourth axis: the gradient that the base optimizer takes, made of the one at w + eps and the one at w."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fsamlab.axes.axis import Choice, Step, table


@dataclass
class Descent(Choice):
    """What the base takes its step with.

    A subclass with `needs_clean = True` finds the gradients g at w in `step.clean`; without it they are not kept.
    """

    per_micro_batch: ClassVar[bool] = False  # the gradients of micro-batches are averaged as they are

    def set_gradients(self, step: Step) -> None:
        """Write the gradients of the step to p.grad, which holds g', the gradient at w + eps, both being finite.

        The weights are w again, and the state of all choices is that of the step before.
        """

    def after(self, step: Step) -> None:
        """Act after the base's step, in a step that perturbs."""


@dataclass
class Perturbed(Descent):
    """The gradient at w + eps (SAM, arXiv 2010.01412)."""

    name = "perturbed"
    per_micro_batch = True


DESCENTS: dict[str, type[Descent]] = table(Perturbed)
