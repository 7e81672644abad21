"""Fifth axis: which steps perturb. The other steps are plain steps of the base optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fsamlab.axes.axis import Choice, Step, table
from fsamlab.checks import COUNT, number


@dataclass
class When(Choice):
    """Which steps perturb.

    A subclass with `needs_clean = True` is asked a second time, by :meth:`decide`, once the clean gradient is known.
    The optimizer calls `between(step)` in each step that does not perturb.
    """

    per_micro_batch: ClassVar[bool] = False

    def turn(self, number: int) -> bool:
        """Return whether the next step, after `number` steps, perturbs or may perturb; asked before any pass."""
        return True

    def decide(self, step: Step) -> bool:
        """Return whether this step perturbs; the clean gradients are in p.grad. Asked only if `needs_clean`.

        A choice changes its state in `commit` and `between`, and not here: the step may still be left out.
        """
        return True

    def past(self, number: int, count: int) -> list[int] | None:
        """Return the last `count` perturbed steps before step `number`, the oldest first; None if they are unknown."""
        return None


@dataclass
class Every(When):
    """Every k-th step perturbs, beginning with the first step."""

    name = "every"
    per_micro_batch = True
    every: int = number(1, 1, COUNT)

    def turn(self, number: int) -> bool:
        """Return whether the number of steps before is a multiple of k."""
        return number % self.every == 0

    def past(self, number: int, count: int) -> list[int]:
        """Return the multiples of k below `number`."""
        last = (number - 1) // self.every * self.every
        return [last - self.every * age for age in range(count - 1, -1, -1)]


WHENS: dict[str, type[When]] = table(Every)
