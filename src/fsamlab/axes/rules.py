"""The rule book of the sharpness-aware family: the choices on each axis, and which choices go together.

Each rule stands here alone. The schema of an optimizer and the library both ask this module, so that both refuse the
same values and combinations in the same words. The arithmetic of a choice is in the class of the choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from fsamlab.axes.ascent import ASCENTS, Ascent
from fsamlab.axes.axis import FULL, OTHER_BATCH, Choice, check_declaration
from fsamlab.axes.component import COMPONENTS, Component
from fsamlab.axes.descent import DESCENTS, Descent
from fsamlab.axes.metric import METRICS, Metric
from fsamlab.axes.radius import RADII, Radius
from fsamlab.axes.reference import REFERENCES, Reference
from fsamlab.axes.when import WHENS, When
from fsamlab.checks import ConfigError, Number, one_of, types_of

T = TypeVar("T")
Name = str | type[Choice] | None

AXES: dict[str, Mapping[str, type[Choice]]] = {
    "component": COMPONENTS,
    "reference": REFERENCES,
    "metric": METRICS,
    "ascent": ASCENTS,
    "descent": DESCENTS,
    "when": WHENS,
    "radius": RADII,
}
BASES: dict[str, type[Choice]] = {
    "component": Component,
    "reference": Reference,
    "metric": Metric,
    "ascent": Ascent,
    "descent": Descent,
    "when": When,
    "radius": Radius,
}
ORDER = ("ascent", "component", "reference", "metric", "descent", "when", "radius")  # in which the axes are written
DEFAULTS: dict[str, str | None] = {  # with which an axis adds nothing; the ascent is always named
    "component": "all",
    "reference": None,
    "metric": "l2",
    "descent": "perturbed",
    "when": "every",
    "radius": "constant",
}
KEYWORDS = frozenset(  # arguments of the optimizer itself, which a choice cannot have as parameters
    ("base", "rho", "floor", "model", "same_rng", "seed", "max_grad_norm", "skip_nonfinite", "foreach")
).union(("process_group", "grad_scaler", "total_steps"), AXES)
NEEDS = {"ascent": (OTHER_BATCH, FULL), "reference": (FULL,)}  # the data that a step can give to a choice
RHO = Number(0, 1e6)
FLOOR = Number(0, 1, open_high=True)


def find(axis: str, name: Name) -> type[Choice]:
    """Return the class of a choice, given its name in the table of the axis or the class itself.

    Raises:
        ConfigError: the name is unknown, or the class is not a choice on this axis.
        TypeError: the class is declared in a way that cannot work.
    """
    if not isinstance(name, type):
        one_of(axis, str(name), tuple(AXES[axis]))
        return AXES[axis][str(name)]
    if not issubclass(name, BASES[axis]):
        allowed = f"must be a subclass of fsamlab.axes.{BASES[axis].__name__}"
        raise ConfigError(axis, f"{name.__module__}:{name.__qualname__}", allowed)
    check_declaration(name)
    if name.needs is not None and name.needs not in NEEDS.get(axis, ()):
        possible = " or ".join(repr(needs) for needs in (None, *NEEDS.get(axis, ())))
        raise TypeError(f"{name.__name__}.needs is {name.needs!r}, and has to be {possible} on the axis {axis}")
    if AXES[axis].get(name.name, name) is not name:
        said = f"{name.__name__} has the name {name.name}, which a choice of fsamlab has: give the class another name"
        raise TypeError(said)
    for method in ("stretch", "set_direction", "form"):
        if getattr(name, method, None) in (getattr(base, method, 0) for base in BASES.values()):
            raise TypeError(f"{name.__name__} has no method {method}, which the axis {axis} needs")
    passes = getattr(name, "has_clean_loss", True) or name.needs is not None
    if getattr(name, "gradients", None) is Ascent.gradients and not passes:
        said = "takes the gradients in p.grad, and no pass puts them there: write has_clean_loss = True"
        raise TypeError(f"{name.__name__} {said}")
    check_names(name, KEYWORDS, "is an argument of every optimizer")
    return name


def check_names(choice: type[Choice], taken: Collection[str], why: str) -> None:
    """Refuse, as a TypeError, a class with a parameter whose value would be read by somebody else."""
    for name in choice.parameters():
        if name in taken:
            raise TypeError(f"{choice.__name__} has a parameter {name}, which {why}: rename the parameter")


def choose(names: Mapping[str, Name]) -> dict[str, type[Choice]]:
    """Return the classes that `names` (axis: name or class) chooses, without a reference where that is None.

    Raises:
        ConfigError: an unknown name, or choices that mean nothing together.
    """
    names = {axis: names.get(axis, DEFAULTS.get(axis)) for axis in AXES}
    found = {axis: find(axis, name) for axis, name in names.items() if name is not None or axis != "reference"}
    ascent, component = found["ascent"], found["component"]
    assert issubclass(ascent, Ascent)
    assert issubclass(component, Component)
    reference = found.get("reference")
    said = f"ascent={ascent.name}"
    for axis, default in DEFAULTS.items():
        if not ascent.perturbs and axis in found and axis != "reference" and found[axis].name != default:
            raise ConfigError(axis, found[axis].name, f"{said} perturbs nothing; choose an ascent gradient")
    if component.takes_reference != (reference is not None):
        wanted = f"needs {' or '.join(REFERENCES)}" if component.takes_reference else "takes none"
        raise ConfigError("reference", reference and reference.name, f"component={component.name} {wanted}")
    if reference is not None and not ascent.has_mean:
        allowed = f"the direction of {said} is no gradient with a mean to take apart; use component=all"
        raise ConfigError("reference", reference.name, allowed)
    if reference is not None and reference.needs == FULL == ascent.needs:
        allowed = f"the gradient of {said} is the full gradient already; use component=all"
        raise ConfigError("reference", reference.name, allowed)
    for axis, choice in found.items():
        if choice.needs_clean and not ascent.has_clean_loss:
            allowed = f"needs the gradient of the descent batch at the unperturbed weights, which {said} does not take"
            raise ConfigError(axis, choice.name, allowed)
    return {axis: found[axis] for axis in ORDER if axis in found}


def check_same_rng(same_rng: bool, ascent: type[Ascent] | Ascent) -> None:
    """Refuse same_rng if no clean pass over the descent batch is made: there is no random state to replay."""
    if same_rng and ascent.perturbs and not ascent.has_clean_loss:
        allowed = f"ascent={ascent.name} has no clean pass to replay, so that it has no effect in this variant"
        raise ConfigError("same_rng", True, allowed)


def unused(name: str, value: object, variant: str) -> ConfigError:
    """Return the error for a parameter of a choice that `variant` does not make."""
    return ConfigError(name, value, f"has no effect in {variant}; only {users(name)} uses it: leave it null")


def users(parameter: str) -> str:
    """Return the choices that have a parameter, in words: `ascent=full or reference=full`."""
    found = [
        f"{axis}={c.name}" for axis, choices in AXES.items() for c in choices.values() if parameter in c.parameters()
    ]
    return " or ".join(found)


def parameter_types() -> dict[str, Any]:
    """Return the type of each parameter in the rule book; a name has the same type in all choices.

    Raises:
        TypeError: two choices declare one name with two types.
    """
    found: dict[str, Any] = {}
    for choices in AXES.values():
        for choice in choices.values():
            hints = types_of(choice)
            for name in choice.parameters():
                kind = hints[name] | None
                if found.setdefault(name, kind) != kind:
                    raise TypeError(f"{name} of {choice.__name__} is {kind}, and {found[name]} elsewhere")
    return found


def with_parameters(cls: type[T]) -> type[T]:
    """Add a field for each parameter of the family to a schema that is not yet a dataclass; the default is null.

    A parameter that the schema declares itself keeps the default of the schema.

    Raises:
        TypeError: the schema has a field of the same name that is not this parameter.
    """
    inherited = getattr(cls, "__dataclass_fields__", {})
    for name, kind in parameter_types().items():
        if name in inherited:
            continue
        if name not in cls.__annotations__:
            cls.__annotations__[name] = kind
            setattr(cls, name, None)
        elif _default(vars(cls).get(name)) not in _defaults_of(name):
            raise TypeError(f"{name} is a key of every optimizer: a choice cannot have a parameter of that name")
    return cls


def _default(declared: Any) -> Any:
    return declared.default if isinstance(declared, dataclasses.Field) else declared


def _defaults_of(parameter: str) -> list[Any]:
    fields = [f for choices in AXES.values() for c in choices.values() for f in dataclasses.fields(c)]
    return [f.default for f in fields if f.name == parameter]
