"""Seventh axis: the radius rho_t of a step, made of the rho of each parameter group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fsamlab.axes.ascent import Ascent
from fsamlab.axes.axis import Choice, Part, table
from fsamlab.checks import ConfigError, number, word

if TYPE_CHECKING:
    from fsamlab.axes._ops import Number, Ops, Tensors
    from fsamlab.axes.choices import Choices


@dataclass
class Radius(Choice):
    """What becomes of each group's rho in a step: rho_t = rho times :meth:`factor` times :meth:`fit`.

    Both multiply, so that groups with a rho of their own keep their ratios. A group whose rho_t is 0 before the passes
    is not perturbed in the step.

    Attributes:
        is_constant: whether rho_t = rho; the step then records no `perturbation/rho`.
        follows_gradient: whether the class has a :meth:`fit`; rho_t is then known once the direction is.
    """

    is_constant: ClassVar[bool] = False
    follows_gradient: ClassVar[bool] = False

    def check(self, choices: Choices) -> None:
        """Refuse a radius that follows the gradient where the metric gives eps a length of the gradient's already."""
        if self.follows_gradient and not choices.metric.normalises:
            allowed = f"sets the length of eps, and metric={choices.metric.name} does so too: choose one of the two"
            raise ConfigError("radius", self.name, allowed)
        if self.follows_gradient and not choices.ascent.has_mean:
            allowed = f"follows the length of a gradient, and the direction of ascent={choices.ascent.name} is none"
            raise ConfigError("radius", self.name, allowed)

    def factor(self, number: int, group: Mapping[str, Any]) -> float:
        """Return the factor of a group's rho, >= 0, in the step after `number` steps; asked before any pass."""
        return 1.0

    def fit(self, number: int, parts: list[Part], td: Tensors, norm_td: Number, ops: Ops) -> Number:
        """Return a further factor, the same for all groups; asked only if `follows_gradient`.

        Args:
            number: of steps before this one.
            parts: the perturbed tensors, with rho times :meth:`factor`.
            td: T d of all parts, in their order.
            norm_td: |T d|, a float on the CPU, elsewhere 0-dim on the device.
            ops: arithmetic on lists of tensors.
        """
        return 1.0


@dataclass
class Constant(Radius):
    """rho_t = rho."""

    name = "constant"
    is_constant = True


@dataclass
class _Annealed(Radius):
    """From `radius_start` rho at the start of the training to `radius_end` rho at its end."""

    radius_start: float = number(1.0, 0, 1e3)
    radius_end: float = number(0.0, 0, 1e3)

    @property
    def needs_total_steps(self) -> bool:
        """Return True: the radius goes by the share of training."""
        return True

    def factor(self, number: int, group: Mapping[str, Any]) -> float:
        """Return end + (start - end) left, where `left` falls from 1 to 0."""
        return self.radius_end + (self.radius_start - self.radius_end) * self.left(self.share_of_training(number))

    def left(self, share: float) -> float:
        """Return what is left of the way at this share of the training: 1 at 0, and 0 at 1."""
        raise NotImplementedError


@dataclass
class Linear(_Annealed):
    """A straight line."""

    name = "linear"

    def left(self, share: float) -> float:
        """Return 1 - share."""
        return 1 - share


@dataclass
class Cosine(_Annealed):
    """Half a cosine, as in the schedule of lr without its warm-up."""

    name = "cosine"

    def left(self, share: float) -> float:
        """Return (1 + cos(pi share)) / 2."""
        return 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class FollowsLr(Radius):
    """rho_t = rho_min + (rho_max - rho_min) (lr_t - lr_min) / (lr_max - lr_min) (GSAM, arXiv 2203.08065, Algorithm 1).

    rho_max is the rho of the group, rho_min = `radius_end` rho. lr_max is the peak of the group's lr, which torch's
    schedulers and the trainer keep in the group as `max_lr` or `initial_lr`; lr_min = `lr_min` lr_max. Below lr_min, in
    a warm-up, rho_t stays at rho_min.
    """

    name = "lr"
    radius_end: float = number(0.0, 0, 1e3)
    lr_min: float = number(0.0, 0, 1, open_high=True)

    def factor(self, number: int, group: Mapping[str, Any]) -> float:
        """Return rho_t / rho.

        Raises:
            ConfigError: the group does not say the peak of its lr.
        """
        peak = group.get("max_lr", group.get("initial_lr"))
        if peak is None:
            allowed = (
                "needs the peak of lr in each group, as initial_lr: a torch scheduler puts it there, or do so yourself"
            )
            raise ConfigError("radius", self.name, allowed)
        share = (float(group["lr"]) / float(peak) - self.lr_min) / (1 - self.lr_min) if peak else 1.0
        return max(0.0, self.radius_end + (1 - self.radius_end) * max(0.0, share))


@dataclass
class Unified(Radius):
    """rho_t = rho (lambda + (1 - lambda) |T d|) (Unified SAM, arXiv 2503.02225): between SAM and USAM.

    With T = 1 and d = g this is eps = rho (1 - lambda + lambda / |g|) g: lambda 1 is SAM, lambda 0 is USAM. lambda is
    `mix`, or by `mix_schedule` 1/t or 1 - 1/t with t = 1, 2, ..., the schedules of the authors' code.
    """

    name = "unified"
    follows_gradient = True
    mix: float | None = number(None, 0, 1)
    mix_schedule: str = word("constant", "constant", "1/t", "1-1/t")

    def check(self, choices: Choices) -> None:
        """Refuse a constant lambda that is not given, and a lambda beside a schedule."""
        super().check(choices)
        if (self.mix_schedule == "constant") != (self.mix is not None):
            beside = f"has no effect beside mix_schedule={self.mix_schedule}: leave it null"
            raise ConfigError("mix", self.mix, "has to be set with radius=unified" if self.mix is None else beside)

    def fit(self, number: int, parts: list[Part], td: Tensors, norm_td: Number, ops: Ops) -> Number:
        """Return lambda + (1 - lambda) |T d|."""
        mix = self.scheduled(self.mix_at, number)
        return mix + (1 - mix) * norm_td

    def mix_at(self, number: int) -> float:
        """Return lambda of the step after `number` steps."""
        harmonic = 1 / (number + 1)
        mix = {"constant": self.mix, "1/t": harmonic, "1-1/t": 1 - harmonic}[self.mix_schedule]
        assert mix is not None  # check() has looked
        return mix


@dataclass
class LossBudget(Radius):
    """rho_t = min(sigma_t / |T d|, rho): the loss rises by sigma_t to first order (LE-SAM, arXiv 2605.10183).

    <d, eps> = rho_t |T d|, and rho is the largest radius, rho_max of the paper. Where groups have radii of their own,
    the factor of all radii is the largest, up to 1, for which <d, eps> <= sigma_t. sigma_t rises along a line from 0 to
    `budget` over the share `budget_warmup` of the training, and falls along half a cosine to 0 from the share
    `budget_decay` on. Defaults and schedule are the authors' code's, which sets sigma_t once in an epoch.
    """

    name = "loss_budget"
    follows_gradient = True
    budget: float = number(0.35, 0, 1e6)
    budget_warmup: float = number(0.05, 0, 1)
    budget_decay: float = number(0.8, 0, 1)

    @property
    def needs_total_steps(self) -> bool:
        """Whether sigma_t changes."""
        return self.budget_warmup > 0 or self.budget_decay < 1

    def check(self, choices: Choices) -> None:
        """Refuse a decay that begins inside the warm-up."""
        super().check(choices)
        ascent = choices.ascent
        if ascent.num_ascents > 1 or type(ascent).length is not Ascent.length:
            allowed = f"bounds the rise of one ascent step of length rho_t, which ascent={ascent.name} does not make"
            raise ConfigError("radius", self.name, allowed)
        if self.budget_decay < self.budget_warmup:
            raise ConfigError("budget_decay", self.budget_decay, f"must be >= budget_warmup={self.budget_warmup}")

    def sigma(self, number: int) -> float:
        """Return sigma_t of the step after `number` steps."""
        if not self.needs_total_steps:
            return self.budget
        share = self.share_of_training(number)
        if share < self.budget_warmup:
            return self.budget * share / self.budget_warmup
        if share <= self.budget_decay:
            return self.budget
        return self.budget * 0.5 * (1 + math.cos(math.pi * (share - self.budget_decay) / (1 - self.budget_decay)))

    def fit(self, number: int, parts: list[Part], td: Tensors, norm_td: Number, ops: Ops) -> Number:
        """Return sigma_t / <d, eps> for the eps of length rho, at most 1."""
        from fsamlab.axes._ops import global_norm, larger, magnitude, ratio  # not at the top: see axis.py

        sigma = self.scheduled(self.sigma, number)
        radii = [magnitude(part.rho) for part in parts]
        if len(set(radii)) == 1:
            rise = radii[0] * norm_td
        else:
            tensors = iter(td)
            norms = [global_norm([next(tensors) for _ in part.params], ops) for part in parts]
            rise = ratio(sum(rho * norm**2 for rho, norm in zip(radii, norms)), norm_td)
        return ratio(sigma, larger(rise, sigma))


RADII: dict[str, type[Radius]] = table(Constant, Linear, Cosine, FollowsLr, Unified, LossBudget)
