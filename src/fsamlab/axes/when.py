"""Fifth axis: which steps perturb. The other steps are plain steps of the base optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fsamlab.axes.axis import Choice, Part, Step, table
from fsamlab.checks import COUNT, ConfigError, number

if TYPE_CHECKING:
    from torch import Tensor

    from fsamlab.axes._ops import Number, Ops
    from fsamlab.axes.axis import State
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

    def check_length(self) -> None:
        """Raise ConfigError if no step of the training can perturb; asked once `total_steps` is known."""

    def decide(self, step: Step) -> bool | Tensor:
        """Return whether this step perturbs; the clean gradients are in p.grad. Asked only if `needs_clean`.

        The host reads the answer, once; a 0-dim tensor on the device spares further reads.

        A choice changes its state in `commit` and `between`, and not here: the step may still be left out.
        """
        return True

    def past(self, number: int, count: int) -> list[int] | None:
        """Return the last `count` perturbed steps before step `number`, the oldest first; None if they are unknown."""
        return None


@dataclass
class Window(When):
    """Every k-th step of a part of the training, from `start` to `stop` (shares of all steps, rounded to whole steps).

    The first step of the part is one of them. Outside the part, all steps are the base's.
    """

    every: int = number(1, 1, COUNT)
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

    def check_length(self) -> None:
        """Refuse a window that rounds to no step."""
        if self.total_steps is not None and self.first >= min(self.end, self.total_steps):
            allowed = f"leaves no step of {self.total_steps} between start={self.start} and stop: give a larger part"
            raise ConfigError("stop", self.stop, allowed)

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
        """Return whether the number of steps before, counted from the start of the window, is a multiple of k."""
        return self.inside(number) and (number - self.first) % self.every == 0


@dataclass
class Every(Window):
    """The steps of the window whose turn it is perturb."""

    name = "every"
    per_micro_batch = True

    def past(self, number: int, count: int) -> list[int]:
        """Return the last `count` steps whose turn it was, among those below `number`."""
        last = self.first + (int(min(number, self.end)) - 1 - self.first) // self.every * self.every
        return [last - self.every * age for age in range(count - 1, -1, -1)]


@dataclass
class Adaptive(Window):
    """A step whose turn it is perturbs if |g|^2 is large among those of the past steps (AE-SAM, arXiv 2304.14647).

    mu_t = delta mu_{t-1} + (1 - delta) |g|^2, sigma_t^2 = delta sigma_{t-1}^2 + (1 - delta) (|g|^2 - mu_t)^2, both 0
    before the first step. A step perturbs if |g|^2 >= mu_t + c_t sigma_t. c_t = (t / T) lambda_1 + (1 - t / T) lambda_2
    goes from lambda_2 to lambda_1 over the T steps of the training: the larger c_t, the fewer steps perturb. g is the
    clean gradient of all parameters.
    """

    name = "adaptive"
    needs_clean = True
    values = ("mu", "sigma_square", "num_perturbed")
    delta: float = number(0.9, 0, 1, open_high=True)
    lambda_1: float = number(-1.0, -1e3, 1e3)
    lambda_2: float = number(1.0, -1e3, 1e3)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mu: Number = 0.0
        self.sigma_square: Number = 0.0
        self.num_perturbed: Tensor | int = 0
        self._seen: tuple[int, Number, Number] | None = None  # number, mu_t and sigma_t^2 of the last decision

    @property
    def needs_total_steps(self) -> bool:
        """Return True: c_t goes by the share of training."""
        return True

    @property
    def uncapturable(self) -> str:
        """Why a step cannot be captured."""
        return "decides by a value on the device whether there is a second pass"

    def decide(self, step: Step) -> bool | Tensor:
        """Return whether |g|^2 >= mu_t + c_t sigma_t."""
        gradients = [p.grad for group in step.groups for p in group["params"] if p.grad is not None]
        norm = step.norm(gradients)
        square = norm**2 if isinstance(norm, float) else norm.double() ** 2
        mu = self.delta * self.mu + (1 - self.delta) * square
        sigma_square = self.delta * self.sigma_square + (1 - self.delta) * (square - mu) ** 2
        self._seen = step.number, mu, sigma_square
        done = self.share_of_training(step.number)
        c = done * self.lambda_1 + (1 - done) * self.lambda_2
        return square >= mu + c * (math.sqrt(sigma_square) if isinstance(sigma_square, float) else sigma_square.sqrt())

    def between(self, step: Step) -> None:
        """Keep mu_t and sigma_t, if this step has made a decision."""
        if self._seen is not None and self._seen[0] == step.number:
            _, self.mu, self.sigma_square = self._seen

    def commit(self, parts: list[Part], state: State, ops: Ops) -> None:
        """Keep mu_t and sigma_t, and count the step."""
        assert self._seen is not None
        _, self.mu, self.sigma_square = self._seen
        self.num_perturbed = self.num_perturbed + 1

    def logged(self, number: int) -> dict[str, Number]:
        """Return the share of the steps so far that perturbed; a step has one pass, and one more if it perturbs."""
        return {"perturbation/perturbed_share": self.num_perturbed / number} if number else {}


WHENS: dict[str, type[When]] = table(Every, Adaptive)
