"""One choice on each axis: what a perturbed step is made of.

    a    the ascent gradient              ascent.py
    d    the component of a that is kept  component.py, relative to a reference r (reference.py)
    eps  = rho T^2 d / |T d|              metric.py
    the base steps with g' = grad L_B(w + eps), or with the gradient that descent.py makes of g' and grad L_B(w)
    when.py says which steps perturb, radius.py with which rho

A variant is one choice on each axis. Norms and inner products run over all perturbed tensors jointly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fsamlab.axes import rules
from fsamlab.axes.ascent import Ascent
from fsamlab.axes.axis import FULL, FULL_GRADIENT, Choice
from fsamlab.axes.component import Component
from fsamlab.axes.descent import Descent
from fsamlab.axes.metric import Metric
from fsamlab.axes.radius import Radius
from fsamlab.axes.reference import Reference
from fsamlab.axes.when import When
from fsamlab.checks import ConfigError, check_fields, in_range

if TYPE_CHECKING:
    from torch import Tensor

    from fsamlab.axes._ops import Number


class Choices:
    """One choice on each axis, with its parameters and its state.

    Args:
        names: axis -> name in the table of the axis, or the class itself; an axis that is left out adds nothing.
        parameters: of the choices; those left out have their defaults.
        loop: whether parameters that the training loop reads are among them.

    Raises:
        ConfigError: an unknown choice, a value out of range, or choices that mean nothing together.
        TypeError: a parameter that none of these choices has.
    """

    ascent: Ascent
    component: Component
    reference: Reference | None
    metric: Metric
    descent: Descent
    when: When
    radius: Radius
    total_steps: int | None = None

    def __init__(self, names: Mapping[str, rules.Name], parameters: Mapping[str, Any], loop: bool = False) -> None:
        chosen = rules.choose(names)
        taken = {axis: c.parameters() if loop else c.of_the_optimizer() for axis, c in chosen.items()}
        known = {name for names in taken.values() for name in names}
        for name, value in parameters.items():
            if name not in known:
                if name not in rules.parameter_types() or any(name in c.parameters() for c in chosen.values()):
                    raise TypeError(f"no choice made here uses {name}")
                variant = ", ".join(f"{axis}={c.name}" for axis, c in chosen.items())
                raise TypeError(str(rules.unused(name, value, variant)))  # as Python does with an unknown argument
        self.reference = None
        for axis, choice in chosen.items():
            setattr(self, axis, choice(**{name: parameters[name] for name in taken[axis] if name in parameters}))
        self._made = tuple(choice for choice in self.by_axis().values() if choice is not None)
        for one in self.made():
            check_fields("", one)  # once more: a __post_init__ of its own may leave the checks of the base class out
        keepers: dict[str, str] = {}
        for axis, one in ((axis, one) for axis, one in self.by_axis().items() if one is not None):
            for key in one.state_keys:
                if key in keepers:
                    allowed = (
                        f"keeps {key} in a parameter's state, as {keepers[key]} does: rename one of the two entries"
                    )
                    raise ConfigError(axis, chosen[axis].name, allowed)
                keepers[key] = f"{axis}={chosen[axis].name}"
            for name in one.values:
                if not hasattr(one, name):
                    allowed = f"lists {name} in `values`, and has no attribute {name}: set self.{name} in __post_init__"
                    raise ConfigError(axis, one.name, allowed)
        for one in self.made():
            one.check(self)

    def made(self) -> tuple[Choice, ...]:
        """Return the choices; an axis without a choice (no reference) is left out."""
        return self._made

    def by_axis(self) -> dict[str, Choice | None]:
        """Return axis -> choice; the value is None if there is no reference."""
        return {axis: getattr(self, axis) for axis in rules.ORDER}

    @property
    def per_micro_batch(self) -> bool:
        """Whether each micro-batch of a step can have its own perturbation."""
        return all(choice.per_micro_batch for choice in self.made())

    @property
    def needs_full(self) -> bool:
        """Whether the gradient over the full training set is kept in each parameter's state."""
        return any(choice.needs == FULL for choice in self.made())

    @property
    def needs_sample_losses(self) -> bool:
        """Whether closures have to return the losses of the samples."""
        return any(choice.needs_sample_losses for choice in self.made())

    @property
    def uncapturable(self) -> str | None:
        """Why a step cannot be captured as a CUDA graph; None if it can."""
        reasons = ((f"{axis}={c.name}", c.uncapturable) for axis, c in self.by_axis().items() if c is not None)
        return next((f"{who} {why}" for who, why in reasons if why is not None), None)

    def acts_between(self, number: int) -> bool:
        """Return whether a choice acts in the step after `number` steps, if this step does not perturb."""
        return self.when.inside(number) and any(type(choice).between is not Choice.between for choice in self.made())

    def logged(self, number: int) -> dict[str, Number]:
        """Return what the choices add to each row of a run, after `number` steps."""
        return {key: value for choice in self.made() for key, value in choice.logged(number).items()}

    def train_for(self, total_steps: int | None) -> None:
        """Tell the choices the number of steps of the whole training.

        Raises:
            ConfigError: a choice goes by the share of training, and the number is not known.
        """
        in_range("total_steps", total_steps, 1)
        for axis, choice in self.by_axis().items():
            if choice is not None and choice.needs_total_steps and total_steps is None:
                allowed = f"{axis}={choice.name} as set goes by the share of training: give the number of all its steps"
                raise ConfigError("total_steps", None, allowed)
        self.total_steps = total_steps
        for choice in self.made():
            choice.total_steps = total_steps  # type: ignore[misc]
        self.when.check_length()

    @property
    def full_every_steps(self) -> int:
        """Steps between two passes over the full training set."""
        return next((c.full_every_steps for c in self.made() if hasattr(c, "full_every_steps")), 1)

    @property
    def state_keys(self) -> frozenset[str]:
        """The entries of a parameter's state that belong to the choices."""
        stored = (FULL_GRADIENT,) if self.needs_full else ()
        return frozenset((*stored, *(key for choice in self.made() for key in choice.state_keys)))

    def blank(self, p: Tensor) -> dict[str, Any]:
        """Return the entries of a parameter's state before any step."""
        import torch  # not at the top: see axis.py

        stored = {FULL_GRADIENT: torch.zeros_like(p)} if self.needs_full else {}
        return {**stored, **{key: value for choice in self.made() for key, value in choice.blank(p).items()}}

    def words(self) -> str:
        """Return where the gradients come from, for messages: `ascent=batch, reference=full`."""
        reference = f", reference={self.reference.name}" if self.reference is not None else ""
        return f"ascent={self.ascent.name}{reference}"

    def state(self) -> dict[str, Any]:
        """Return the names, the parameters and the changing values of the choices."""
        parameters = {name: getattr(c, name) for c in self.made() for name in c.of_the_optimizer()}
        values = {axis: {n: _read(getattr(c, n)) for n in c.values} for axis, c in self.by_axis().items() if c}
        names = {axis: c.name if c else None for axis, c in self.by_axis().items()}
        length = {"total_steps": self.total_steps} if any(c.needs_total_steps for c in self.made()) else {}
        return {"choices": names, "parameters": parameters, "values": {k: v for k, v in values.items() if v}, **length}

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ValueError if `state` belongs to other choices; an axis that `state` does not know has its default."""
        mine, theirs = self.state()["choices"], {**rules.DEFAULTS, **state["choices"]}
        differing = [f"{k}={theirs[k]} there, {mine[k]} here" for k in mine if mine[k] != theirs[k]]
        if differing:
            raise ValueError(f"this is the state of another variant: {'; '.join(differing)}")
        there = state.get("total_steps", self.total_steps)
        if self.total_steps is not None and there != self.total_steps:
            raise ValueError(
                f"this is the state of a training of {there} steps that goes by the share of training, and total_steps "
                f"is {self.total_steps} here: give total_steps={there}"
            )
        for axis, choice in self.by_axis().items():
            missing = set(choice.values if choice else ()) - set(state.get("values", {}).get(axis, {}))
            if missing:
                raise ValueError(f"this state has no {', '.join(sorted(missing))} of {axis}={mine[axis]}")

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore parameters and values; a parameter that `state` does not know keeps its present value."""
        for axis, choice in self.by_axis().items():
            if choice is None:
                continue
            for name in choice.of_the_optimizer():
                setattr(choice, name, state["parameters"].get(name, getattr(choice, name)))
            for name in choice.values:
                setattr(choice, name, state["values"][axis][name])
        self.train_for(state.get("total_steps", self.total_steps))


def _read(value: Any) -> Any:
    """Return a value as a number, where masked steps on a GPU have made a 0-dim tensor of the number."""
    return value.item() if hasattr(value, "item") else value
