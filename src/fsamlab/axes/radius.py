"""Seventh axis: the radius rho_t of a step, made of the rho of each parameter group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fsamlab.axes.axis import Choice, Part, table
from fsamlab.checks import ConfigError, number

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


RADII: dict[str, type[Radius]] = table(Constant, Linear, Cosine, FollowsLr)
