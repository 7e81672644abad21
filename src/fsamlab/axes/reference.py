"""The reference r of a component: r = on_a a + on_m m, m a tensor that the state of the parameter holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fsamlab.axes.axis import FULL, FULL_GRADIENT, IN_EACH_STEP, Choice, Part, table
from fsamlab.checks import COUNT, ConfigError, number, word

if TYPE_CHECKING:
    from torch import Tensor

    from fsamlab.axes._ops import Ops
    from fsamlab.axes.axis import State
    from fsamlab.axes.choices import Choices

SIGMA_LIMIT = "order=paper needs sigma < 1/(1-lmbda): beyond it g - sigma*m changes sign"


@dataclass
class Reference(Choice):
    """The reference r that a component is relative to.

    Attributes:
        is_average: whether the reference is an average of past ascent gradients. If so, :meth:`average` returns the
            average, and measurements can compare the average with the full gradient.
    """

    is_average: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The reference's name in metric keys: `perturbation/cos_<label>`."""
        return self.name

    def form(self, state: dict[str, Any]) -> tuple[Tensor | None, float, float]:
        """Return (m, on_a, on_m) of r = on_a a + on_m m for a parameter with this state; m may be None at first."""
        raise NotImplementedError

    def average(self, state: dict[str, Any]) -> tuple[Tensor | None, int]:
        """Return (average, number of updates) from the state of a parameter; the average is None before the first."""
        raise NotImplementedError

    def average_weights(self, num_updates: int) -> Tensor:
        """Return the weights (n,), float64, of the past gradients in the average; the newest gradient is last."""
        raise NotImplementedError


@dataclass
class Ema(Reference):
    """Moving average of the raw ascent gradients, m_t = lmbda m_{t-1} + (1 - lmbda) a_t.

    Order `official` (nblt/F-SAM) uses m_{t-1}, so that the first step has no reference and is SAM's;
    `paper` (arXiv 2403.12350, Algorithm 1) uses m_t. Start `first_gradient` sets m_0 = a_0; `zero` sets
    m_{-1} = 0; `zero_debiased` divides by 1 - lmbda^n after n updates. Starts and counts are per tensor; a tensor
    without a gradient keeps its average. The average has the dtype of its parameter.
    """

    name = "ema"
    is_average = True
    state_keys = ("ema", "ema_steps")
    lmbda: float = number(0.9, 0, 1, open_high=True)
    order: str = word("official", "official", "paper")
    ema_init: str = word("first_gradient", "first_gradient", "zero", "zero_debiased")

    def check(self, choices: Choices) -> None:
        """Refuse a sigma for which order=paper reverses the gradient or makes the first direction zero."""
        sigma = choices.component.subtracted
        if sigma is None or self.order != "paper":
            return
        if sigma * (1 - self.lmbda) > 1 - 1e-9:  # 1/(1-.9) is 10 but for the last bit
            limit = f"(= {1 / (1 - self.lmbda):g} for lmbda={self.lmbda:g})"
            raise ConfigError("sigma", sigma, f"{SIGMA_LIMIT} {limit}")
        if sigma >= 1 and self.ema_init != "zero":
            raise ConfigError(
                "ema_init",
                self.ema_init,
                "with order=paper and sigma >= 1 the first direction is (1 - sigma) times the gradient: zero, or "
                "turned round; use ema_init=zero",
            )

    @property
    def reads_verdict(self) -> bool:
        """Whether coefficients depend on the number of updates."""
        return self.ema_init == "zero_debiased"

    @property
    def uncapturable(self) -> str | None:
        """Why a step cannot be captured."""
        return "counts its updates on the host (ema_init=zero_debiased)" if self.reads_verdict else None

    def blank(self, p: Tensor) -> dict[str, Any]:
        """Return the state of an EMA without updates."""
        import torch  # not at the top: see axis.py

        return {"ema": torch.zeros_like(p), "ema_steps": 0}

    def form(self, state: dict[str, Any]) -> tuple[Tensor | None, float, float]:
        """Return (m_{t-1} or None, on_a, on_m) of r for a tensor with this state."""
        m, n = state.get("ema"), state.get("ema_steps", 0)
        debiased = self.ema_init == "zero_debiased"
        if self.order == "official":
            return m, 0.0, (1 / (1 - self.lmbda**n) if debiased and n else 1.0)
        if m is None and self.ema_init == "first_gradient":
            return None, 1.0, 0.0
        bias = 1 - self.lmbda ** (n + 1) if debiased else 1.0
        return m, (1 - self.lmbda) / bias, self.lmbda / bias

    def update(self, part: Part, state: State, ops: Ops) -> None:
        """Update the average with the raw gradients a of a part, computed back from part.a = alpha a - beta m."""
        new = 1 - self.lmbda
        if part.m:
            # With x = part.a / alpha = a - (beta / alpha) m, the new average lmbda m + new a is keep m + new x: no
            # copy of a is needed.
            keep = 1 - new * (1 - part.beta / part.alpha)
            if keep != 1:
                ops.mul_(part.m, keep)
            ops.add_(part.m, part.a, alpha=new / part.alpha)
        else:
            first = (1.0 if self.ema_init == "first_gradient" else new) / part.alpha
            for p, m in zip(part.params, ops.scaled(part.a, first)):
                state[p]["ema"] = m
        counts: dict[int, Any] = {}  # one for all tensors with equal counts: on a GPU each addition is a kernel
        for p in part.params:
            n = state[p].get("ema_steps", 0)
            if id(n) not in counts:
                counts[id(n)] = n + 1
            state[p]["ema_steps"] = counts[id(n)]

    def average(self, state: dict[str, Any]) -> tuple[Tensor | None, int]:
        """Return (m, number of its updates)."""
        return state.get("ema"), int(state.get("ema_steps", 0))

    def average_weights(self, num_updates: int) -> Tensor:
        """Return the weights of an EMA."""
        return ema_weights(num_updates, self.lmbda, self.ema_init)


def ema_weights(num_updates: int, lmbda: float, ema_init: str) -> Tensor:
    """Return the weights c of the gradients in an EMA after `num_updates`, float64, the newest last.

    m = sum_j c_j g_j with c_j = (1 - lmbda) lmbda^age; with `first_gradient` the oldest has lmbda^age alone.
    Gradients so old that their weight is below 1e-12 are left out.
    """
    import torch  # not at the top: see axis.py

    horizon = 1 if lmbda == 0 else math.ceil(math.log(1e-12) / math.log(lmbda))
    kept = min(num_updates, horizon)
    weights = (1 - lmbda) * lmbda ** torch.arange(kept - 1, -1, -1, dtype=torch.float64)
    if ema_init == "first_gradient" and kept == num_updates:
        weights[0] = lmbda ** (num_updates - 1)
    return weights


@dataclass
class FullGradient(Reference):
    """The gradient over the full training set, made every `full_every_steps` steps and stored by SharpnessAware."""

    name = "full"
    needs = FULL
    data = "the full training set"
    per_micro_batch = False
    state_keys = (FULL_GRADIENT,)
    full_every_steps: int = number(1, 1, COUNT)

    @property
    def uncapturable(self) -> str | None:
        """Why a step cannot be captured."""
        return IN_EACH_STEP if self.full_every_steps == 1 else None

    def form(self, state: dict[str, Any]) -> tuple[Tensor | None, float, float]:
        """Return (G or None, 0, 1)."""
        return state.get(FULL_GRADIENT), 0.0, 1.0


REFERENCES: dict[str, type[Reference]] = table(Ema, FullGradient)
