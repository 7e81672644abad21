"""Fifth axis: which steps perturb. The other steps are plain steps of the base optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fsamlab.axes.axis import Choice, Step, table
from fsamlab.checks import COUNT, ConfigError, number

if TYPE_CHECKING:
    from fsamlab.axes.choices import Choices


@dataclass
class When(Choice):
    """Which steps perturb.

    A subclass with `needs_clean = True` is asked a second time, by :meth:`decide`, once the clean gradient is known.
    The optimizer calls `between(step)` in each step that does not perturb, as long as :meth:`inside` says so.
    """

    per_micro_batch: ClassVar[bool] = False

    def turn(self, number: int) -> bool:
        """Return whether the next step, after `number` steps, perturbs or may perturb; asked before any pass."""
        return True

    def inside(self, number: int) -> bool:
        """Return whether the variant acts at all in the step after `number` steps; if not, the step is the base's."""
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
class Window(When):
    """A part of the training, from `start` to `stop` (shares of all steps); outside, all steps are the base's.

    Both ends are rounded to whole steps.
    """

    start: float = number(0.0, 0, 1, open_high=True)
    stop: float = number(1.0, 0, 1, open_low=True)

    def check(self, choices: Choices) -> None:
        """Refuse a window without steps."""
        if self.start >= self.stop:
            raise ConfigError("stop", self.stop, f"must be > start, which is {self.start}")

    @property
    def needs_total_steps(self) -> bool:
        """Whether the window is smaller than the training."""
        return (self.start, self.stop) != (0, 1)

    @property
    def first(self) -> int:
        """The number of steps before the window."""
        return round(self.start * self.total_steps) if self.start and self.total_steps is not None else 0

    @property
    def end(self) -> float:
        """The number of steps before and inside the window; infinite if the window has no end."""
        return round(self.stop * self.total_steps) if self.stop < 1 and self.total_steps is not None else math.inf

    def inside(self, number: int) -> bool:
        """Return whether the number of steps before is in the window."""
        return self.first <= number < self.end

    def turn(self, number: int) -> bool:
        """Return whether the number of steps before is in the window."""
        return self.inside(number)


@dataclass
class Every(Window):
    """Every k-th step of the window perturbs, beginning with its first step."""

    name = "every"
    per_micro_batch = True
    every: int = number(1, 1, COUNT)

    def turn(self, number: int) -> bool:
        """Return whether the number of steps before, counted from the start of the window, is a multiple of k."""
        return self.inside(number) and (number - self.first) % self.every == 0

    def past(self, number: int, count: int) -> list[int]:
        """Return the last `count` steps whose turn it was, among those below `number`."""
        last = self.first + (int(min(number, self.end)) - 1 - self.first) // self.every * self.every
        return [last - self.every * age for age in range(count - 1, -1, -1)]


WHENS: dict[str, type[When]] = table(Every)
