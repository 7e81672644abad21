"""The schema of an optimizer variant: its base, and one choice on each axis of the family."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fsamlab.config import rules
from fsamlab.config.checks import MISSING, ConfigError, in_range, one_of

BASES = {"sgd": ("momentum", "nesterov"), "adamw": ("betas", "eps")}  # base: the keys that this base alone reads


@dataclass
@rules.with_parameters  # sigma, lmbda, eta, ...: null where no choice of the variant has the parameter
class OptimizerConfig:
    """An optimizer variant: the base, and one choice on each axis of the SAM family (rules.py)."""

    name: str = MISSING
    base: str = "sgd"  # sgd | adamw
    lr: float = 0.05
    weight_decay: float = 5e-4
    momentum: float = 0.9  # base=sgd
    nesterov: bool = False  # base=sgd
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # base=adamw
    eps: float = 1e-8  # base=adamw
    epoch_multiplier: int = 1  # trains train.epochs times this; 2 gives SGD the compute of a two-pass method
    # the axes
    ascent: str = "none"  # none | batch | other_batch | full | gaussian
    component: str = "all"  # all | subtract | project_out | project_on | reference
    reference: str | None = None  # ema | full
    metric: str = "l2"  # l2 | adaptive
    every: int = 1  # perturb in every k-th step, plain base steps between
    rho: float = 0.0
    floor: float = 1e-5  # |d| <= floor*|a| leaves the weights unperturbed
    same_rng: bool = False  # the perturbed pass replays the clean pass's dropout masks

    def __post_init__(self) -> None:
        try:
            self._check_base()
            self._check_axes()
        except ConfigError as e:
            raise e.under("optimizer.") from None

    def _check_base(self) -> None:
        one_of("base", self.base, tuple(BASES))
        for name in ("lr", "weight_decay", "rho"):
            in_range(name, getattr(self, name), 0)
        in_range("momentum", self.momentum, 0, 1, open_high=True)
        in_range("eps", self.eps, 0, open_low=True)
        in_range("floor", self.floor, 0, 1, open_high=True)
        in_range("every", self.every, 1)
        in_range("epoch_multiplier", self.epoch_multiplier, 1)
        if len(self.betas) != 2:
            raise ConfigError("betas", self.betas, "must be two numbers in [0, 1)")
        for beta in self.betas:
            in_range("betas", beta, 0, 1, open_high=True)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov", True, "needs optimizer.momentum > 0")
        for base, names in BASES.items():
            if base != self.base:
                self._refuse(names, f"only base={base} uses it")

    def _check_axes(self) -> None:
        names = {axis: getattr(self, axis) for axis in rules.AXES}
        one_of("ascent", self.ascent, tuple(rules.ASCENTS))
        ascent = rules.ASCENTS[self.ascent]
        if not ascent.perturbs and self.rho > 0:
            allowed = f"optimizer={self.name} has no perturbation (ascent={self.ascent}); leave rho at 0"
            raise ConfigError("rho", self.rho, allowed)
        chosen = rules.choose(names)
        taken = {name for choice in chosen.values() for name in choice.parameters()}
        for name in rules.parameter_types():
            value = getattr(self, name, None)
            if value is not None and name not in taken:
                allowed = f"has no effect in optimizer={self.name}; only {rules.users(name)} uses it: leave it null"
                raise ConfigError(name, value, allowed)
        for axis, choice in chosen.items():
            for name in choice.required():
                if getattr(self, name) is None:
                    raise ConfigError(name, "null", f"has to be set with {axis}={choice.name}")
        self.chosen().check()
        if not ascent.perturbs:
            self._refuse(("every", "floor", "same_rng"), "there is no perturbation")
        elif not ascent.has_clean_loss:
            self._refuse(("same_rng",), f"ascent={self.ascent} has no clean pass to replay")

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuse keys that this variant does not read, unless they have their defaults."""
        for f in dataclasses.fields(self):
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if f.name in names and getattr(self, f.name) != default:
                allowed = f"has no effect in optimizer={self.name}: {why}; leave it at {default}"
                raise ConfigError(f.name, getattr(self, f.name), allowed)

    def chosen(self) -> rules.Chosen:
        """Return the choices with their values.

        Raises:
            ConfigError: a value out of range.
        """
        found: dict[str, Any] = {"reference": None}
        for axis, choice in rules.choose({axis: getattr(self, axis) for axis in rules.AXES}).items():
            found[axis] = choice(**{name: getattr(self, name) for name in choice.parameters()})
        return rules.Chosen(**found)
