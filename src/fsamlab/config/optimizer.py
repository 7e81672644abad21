"""The schema of an optimizer variant: its base, and one choice on each axis of the family."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fsamlab.axes import Ascent, Choice, Choices, rules
from fsamlab.axes.axis import is_kept
from fsamlab.checks import (
    COUNT,
    MISSING,
    ConfigError,
    Number,
    check_fields,
    did_you_mean,
    is_recorded,
    label,
    listed,
    mapping,
    number,
    one_of,
    text,
    within,
    word,
)
from fsamlab.config.base import BUILT_IN, STATE, check_base
from fsamlab.config.import_path import import_function
from fsamlab.config.perturb import check_freeze, check_perturb

FOREIGN = ":"  # in the name of a choice from another package


@dataclass
@rules.with_parameters  # sigma, lmbda, eta, ...: null where no choice of the variant has the parameter
class OptimizerConfig:
    """An optimizer variant: the base, and one choice on each axis of the SAM family (rules.py)."""

    name: str = label(MISSING, 70)
    base: str = text("sgd", 400)  # sgd | adamw | package.module:Class, any torch optimizer
    base_options: Any = None  # keywords of a base from another package: a mapping, such as {betas: [0.9, 0.99]}
    lr: float = number(0.05, 0, 1e20)  # that a rate diverges is a result of a run; beyond, fp32 itself overflows
    weight_decay: float = number(5e-4, 0, 1e6)
    weight_decay_on: str = word("all", "all", "matrices")  # matrices: none on biases and on norms' scales and shifts
    layer_decay: float = number(1.0, 0.01, 1)  # factor of lr from a layer to the one before it
    freeze: Any = None  # parameters that are not trained: a list of name patterns, such as ["stem.*"]
    momentum: float = number(0.9, 0, 1, open_high=True)  # base=sgd
    nesterov: bool = False  # base=sgd
    betas: list[float] = listed([0.9, 0.999], Number(0, 1, open_high=True), 2, 2)  # base=adamw
    eps: float = number(1e-8, 1e-30, 1e6)  # base=adamw; below, fp32 has a zero
    epoch_multiplier: int = number(1, 1, 1000)  # trains train.epochs times this; 2: the compute of a two-pass method
    # the axes; a choice from another package is package.module:Class
    ascent: str = "none"  # none, batch, multi_step, some_tensors, other_batch, full, gaussian, ... (axes/ascent.py)
    component: str = "all"  # all | subtract | project_out | project_on | reference
    reference: str | None = None  # ema | full
    metric: str = "l2"  # l2 | adaptive | fisher | unnormalised
    descent: str = "perturbed"  # perturbed | rescaled | mixed | sharpest | surrogate_gap | weighted | look | lookbehind
    when: str = "every"  # every | adaptive
    every: int = number(1, 1, COUNT)  # perturb in every k-th step, plain base steps between
    start: float = number(0.0, 0, 1, open_high=True)  # plain base steps before this share of training
    stop: float = number(1.0, 0, 1, open_low=True)  # plain base steps from this share of training on
    radius: str = "constant"  # constant | linear | cosine | lr | unified | loss_budget
    radius_start: float = number(1.0, 0, 1e3)  # radius=linear, cosine: the radius at the start, a share of rho
    radius_end: float = number(0.0, 0, 1e3)  # radius=linear, cosine: at the end; radius=lr: where lr is smallest
    lr_min: float = number(0.0, 0, 1, open_high=True)  # radius=lr: the smallest lr, a share of its peak
    mix_schedule: str = word("constant", "constant", "1/t", "1-1/t")  # radius=unified
    budget_warmup: float = number(0.05, 0, 1)  # radius=loss_budget: a share of training
    budget_decay: float = number(0.8, 0, 1)  # radius=loss_budget: from this share of training on
    parameters: Any = None  # of choices from other packages: a mapping, such as {alpha: 0.5}
    perturb: Any = "all"  # all | norm | weights | no_norm, or [{name: pattern, rho: radius}, ...] (perturb.py)
    rho: float = within(0.0, rules.RHO)
    floor: float = within(1e-5, rules.FLOOR)  # |d| <= floor*|a| leaves the weights unperturbed
    same_rng: bool = False  # the perturbed pass replays the clean pass's dropout masks

    def __post_init__(self) -> None:
        try:
            self._check_base()
            self._check_axes()
        except ConfigError as e:
            raise e.under("optimizer.") from None

    def _check_base(self) -> None:
        check_fields("", self)
        check_freeze(self.freeze)
        if FOREIGN not in self.base:
            one_of("base", self.base, tuple(BUILT_IN))
            if self.base_options is not None:
                allowed = f"base={self.base} has keys of its own; leave it null"
                raise ConfigError("base_options", self.base_options, allowed)
        elif not is_recorded():  # a table of runs does not need the packages that the runs were made with
            check_base(self.base, self.base_options, self.lr, self.weight_decay)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov", True, "needs optimizer.momentum > 0")
        for base, names in BUILT_IN.items():
            if base != self.base:
                self._refuse(names, f"only base={base} uses it")

    def _check_axes(self) -> None:
        if is_recorded() and self.foreign():
            return  # a table of runs does not need the packages that the runs were made with
        ascent = rules.find("ascent", self._class_or_name("ascent"))
        assert issubclass(ascent, Ascent)
        check_perturb(self.perturb)
        if not ascent.perturbs:
            no_perturbation = f"optimizer={self.name} has no perturbation (ascent={ascent.name})"
            if self.rho > 0:
                raise ConfigError("rho", self.rho, f"{no_perturbation}; leave rho at 0")
            if self.perturb != "all":
                raise ConfigError("perturb", self.perturb, f"{no_perturbation}; leave perturb at all")
        chosen = self.classes()
        taken = {name for choice in chosen.values() for name in choice.parameters()}
        for name in rules.parameter_types():
            value, default = getattr(self, name, None), self.__dataclass_fields__[name].default
            if value is not None and name not in taken and value != default:
                raise rules.unused(name, value, f"optimizer={self.name}")
        own = self._own_parameters(chosen)
        for name, value in self._further().items():
            # A choice from another package keeps its parameters here, also when a later version has a key of that name.
            if name in self.__dataclass_fields__ and name not in taken - own:
                raise ConfigError(f"parameters.{name}", value, f"is a key of its own: set optimizer.{name}")
            if name in self.__dataclass_fields__ and getattr(self, name) is not None:
                raise ConfigError(name, getattr(self, name), f"optimizer.parameters.{name} is set too: leave out one")
            if name not in taken:
                near = did_you_mean(name, sorted(taken - own))
                near = near or did_you_mean(name, sorted(own)).replace("mean ", "mean optimizer.")
                allowed = f"has no effect in optimizer={self.name}: no choice made here has it{near}; leave it out"
                raise ConfigError(f"parameters.{name}", value, allowed)
        self._check_all_set(chosen)
        self._check_base_state(chosen)
        self._with_values(chosen)
        self._settle(chosen)
        if not ascent.perturbs:
            self._refuse(("every", "start", "stop", "floor", "same_rng"), "there is no perturbation")
        elif not is_recorded():
            rules.check_same_rng(self.same_rng, ascent)

    def _own_parameters(self, chosen: dict[str, type[Choice]]) -> set[str]:
        """Return the parameters of the choices of this package, which are keys of their own."""
        return {name for axis, c in chosen.items() if axis not in self.foreign() for name in c.parameters()}

    def _check_all_set(self, chosen: dict[str, type[Choice]]) -> None:
        own = self._own_parameters(chosen)
        for axis, choice in chosen.items():
            for name in choice.required():
                where = name if name in own else f"parameters.{name}"
                if self.value(name) is None:
                    raise ConfigError(where, "null", f"has to be set with {axis}={getattr(self, axis)}")
                if self.value(name) == MISSING:  # which check_fields takes for a value that is still to come
                    raise ConfigError(where, MISSING, "has to be set")

    def _check_base_state(self, chosen: dict[str, type[Choice]]) -> None:
        """Refuse a built-in base without the state that a choice reads; another base tells after its first step."""
        if self.base not in STATE:
            return
        kept = STATE[self.base] if self.base != "sgd" or self.momentum > 0 else ()
        for axis, choice in chosen.items():
            for key in choice.needs_base_state:
                if not is_kept(key, kept):
                    settings = f"base={self.base}" + ("" if kept else ", momentum=0")
                    allowed = f"reads {key} of the base, which {settings} does not keep"
                    raise ConfigError(axis, getattr(self, axis), allowed)

    def to_build(self) -> dict[str, type[Choice]]:
        """Return :meth:`classes`, of which a record may have been made with another version or in another place.

        Raises:
            ConfigError: a class is missing, or has a parameter that this configuration does not set.
        """
        try:
            chosen = self.classes()
            self._check_all_set(chosen)
        except ConfigError as e:
            raise e.under("optimizer.") from None
        return chosen

    def _settle(self, chosen: dict[str, type[Choice]]) -> None:
        """Write `parameters` in one form, as the schema does with keys of its own: 1 and 1.0 are one run."""
        floats = {name for choice in chosen.values() for name in choice.floats()}
        written = {k: float(v) if k in floats and v is not None else v for k, v in self._further().items()}
        self.parameters = written or None

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuse keys that this variant does not read, unless they have their defaults or are on record."""
        if is_recorded():
            return
        for f in dataclasses.fields(self):
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if f.name in names and getattr(self, f.name) != default:
                allowed = f"has no effect in optimizer={self.name}: {why}; leave it at {default}"
                raise ConfigError(f.name, getattr(self, f.name), allowed)

    def classes(self) -> dict[str, type[Choice]]:
        """Return axis -> class of the choices, those from other packages imported.

        Raises:
            ConfigError: an unknown choice, or choices that mean nothing together.
        """
        return rules.choose({axis: self._class_or_name(axis) for axis in rules.AXES})

    def foreign(self) -> dict[str, str]:
        """Return axis -> import path of the choices from other packages."""
        return {axis: getattr(self, axis) for axis in rules.AXES if FOREIGN in str(getattr(self, axis))}

    def imported(self) -> dict[str, str]:
        """Return key -> import path of everything that comes from another package: choices, and the base."""
        return {**self.foreign(), **({"base": self.base} if FOREIGN in self.base else {})}

    def _class_or_name(self, axis: str) -> rules.Name:
        name: str | None = getattr(self, axis)
        if name is None or FOREIGN not in name:
            return name
        found = import_function(axis, name, "Class")
        if not isinstance(found, type):
            raise ConfigError(axis, name, "is a function, and has to be a class")
        try:
            choice = rules.find(axis, found)
            keys = self.__dataclass_fields__.keys() - rules.parameter_types().keys()
            rules.check_names(choice, keys, "is a key of every optimizer")
            return choice
        except TypeError as e:
            raise ConfigError(axis, name, str(e)) from None

    def value(self, parameter: str) -> Any:
        """Return the value of a choice's parameter; None where it is not set."""
        further = self._further()
        return further[parameter] if parameter in further else getattr(self, parameter, None)

    def _further(self) -> dict[str, Any]:
        return mapping("parameters", self.parameters, "{alpha: 0.5}")

    def chosen(self) -> Choices:
        """Return the choices with their values.

        Raises:
            ConfigError: a value out of range.
        """
        return self._with_values(self.classes())

    def _with_values(self, chosen: dict[str, type[Choice]]) -> Choices:
        values = {name: self.value(name) for choice in chosen.values() for name in choice.parameters()}
        try:
            return Choices(chosen, values, loop=True)
        except ConfigError as e:
            raise e.under("parameters.") if e.key in self._further() else e from None
