"""Fifth axis: which steps perturb. The others are plain steps of the base optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fsamlab.axes.axis import Choice, Step, table
from fsamlab.checks import COUNT, number


@dataclass
class When(Choice):
    """Which steps perturb.

    A subclass with `needs_clean = True` is asked a second time, by :meth:`decide`, once the clean gradient is known.
    `between(step)` is called in each step that does not perturb.
    """

    per_micro_batch: ClassVar[bool] = False

    def turn(self, number: int) -> bool:
        """Return whether the step after `number` steps perturbs, or may do so; asked before any pass."""
        return True

    def decide(self, step: Step) -> bool:
        """Return whether this step perturbs, with the clean gradients in p.grad; asked with `needs_clean` alone.

        A choice that keeps a state changes it in `commit` and `between`: the step may still be left out.
        """
        return True

    def past(self, number: int, count: int) -> list[int] | None:
        """Return the last `count` steps before step `number` that perturbed, the oldest first; None if not known."""
        return None


@dataclass
class Every(When):
    """Every k-th step, beginning with the first one."""

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
