"""Fourth axis: the gradient that the base optimizer takes, made of the gradients at w + eps and at w."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fsamlab.axes.axis import Choice, Step, table


@dataclass
class Descent(Choice):
    """The gradient with which the base takes its step.

    A subclass with `needs_clean = True` finds the gradients g at w in `step.clean`, which is empty for the others.
    """

    per_micro_batch: ClassVar[bool] = False  # the gradients of micro-batches are averaged as they are

    def set_gradients(self, step: Step) -> None:
        """Write the gradient of the base's step to p.grad, which holds g', the gradient at w + eps.

        g and g' are finite. The weights are w again, and no choice has updated its state with this step yet.
        """

    def after(self, step: Step) -> None:
        """Act after the step of the base, in a step that perturbs."""


@dataclass
class Perturbed(Descent):
    """The gradient at w + eps (SAM, arXiv 2010.01412)."""

    name = "perturbed"
    per_micro_batch = True


DESCENTS: dict[str, type[Descent]] = table(Perturbed)
