"""The schema of an optimizer variant: its base, and one choice on each axis of the family."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fsamlab.axes import rules
from fsamlab.checks import (
    COUNT,
    MISSING,
    ConfigError,
    Number,
    check_fields,
    is_recorded,
    label,
    listed,
    number,
    one_of,
    word,
)

BASES = {"sgd": ("momentum", "nesterov"), "adamw": ("betas", "eps")}  # base: the keys that this base alone reads


@dataclass
@rules.with_parameters  # sigma, lmbda, eta, ...: null where no choice of the variant has the parameter
class OptimizerConfig:
    """An optimizer variant: the base, and one choice on each axis of the SAM family (rules.py)."""

    name: str = label(MISSING, 70)
    base: str = word("sgd", *BASES)
    lr: float = number(0.05, 0, 1e20)  # that a rate diverges is a result of a run; beyond, fp32 itself overflows
    weight_decay: float = number(5e-4, 0, 1e6)
    momentum: float = number(0.9, 0, 1, open_high=True)  # base=sgd
    nesterov: bool = False  # base=sgd
    betas: list[float] = listed([0.9, 0.999], Number(0, 1, open_high=True), 2, 2)  # base=adamw
    eps: float = number(1e-8, 1e-30, 1e6)  # base=adamw; below, fp32 has a zero
    epoch_multiplier: int = number(1, 1, 1000)  # trains train.epochs times this; 2: the compute of a two-pass method
    # the axes
    ascent: str = "none"  # none | batch | other_batch | full | gaussian
    component: str = "all"  # all | subtract | project_out | project_on | reference
    reference: str | None = None  # ema | full
    metric: str = "l2"  # l2 | adaptive
    every: int = number(1, 1, COUNT)  # perturb in every k-th step, plain base steps between
    rho: float = number(0.0, 0, 1e6)
    floor: float = number(1e-5, 0, 1, open_high=True)  # |d| <= floor*|a| leaves the weights unperturbed
    same_rng: bool = False  # the perturbed pass replays the clean pass's dropout masks

    def __post_init__(self) -> None:
        try:
            self._check_base()
            self._check_axes()
        except ConfigError as e:
            raise e.under("optimizer.") from None

    def _check_base(self) -> None:
        check_fields("", self)
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
        """Refuse keys that this variant does not read, unless they have their defaults or are on record."""
        if is_recorded():
            return
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
