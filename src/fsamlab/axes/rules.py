"""The rule book of the sharpness-aware family: the choices on each axis, their parameters, what goes together.

Torch-free, and the only place that says it. The schema of an optimizer takes its parameters from here, and the
classes of `fsamlab.optim` that do the arithmetic inherit from the classes here: what a config shows is what trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from fsamlab.checks import COUNT, ConfigError, check_fields, number, one_of, word

OTHER_BATCH, FULL = "other_batch", "full"  # data other than the descent batch that a choice may need
PAPER_SIGMA_LIMIT = "order=paper needs sigma < 1/(1-lmbda): beyond it g - sigma*m changes sign"


@dataclass
class Choice:
    """One choice on an axis; the fields of a subclass (a dataclass) are the parameters of the choice.

    A field declares its range (`sigma: float = number(1.0, -10, 10)`), and `__post_init__` refuses values outside. A
    parameter that may be null has a type with None.

    Attributes:
        name: in a config; unique on the axis.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields("", self)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def of_the_optimizer(cls) -> tuple[str, ...]:
        """Return the names of the parameters without those that the training loop reads."""
        return tuple(f.name for f in dataclasses.fields(cls) if not f.metadata.get("loop"))

    @classmethod
    def required(cls) -> tuple[str, ...]:
        """Return the names of the parameters that may not be null."""
        hints = get_type_hints(cls)
        return tuple(name for name in cls.parameters() if type(None) not in get_args(hints[name]))

    def check(self, chosen: Chosen) -> None:
        """Refuse, as a ConfigError, values that mean nothing together with the other choices."""


def of_the_loop(field: Any) -> Any:
    """Return a field that the training loop reads, not the optimizer: it says which data a closure runs on."""
    return dataclasses.field(default=field.default, metadata={**field.metadata, "loop": True})


# --- ascent


@dataclass
class Ascent(Choice):
    """First axis: where the ascent gradient comes from.

    Attributes:
        perturbs: whether there is an ascent at all.
        needs: the extra data its closure runs on; None if it takes no closure of its own.
        data: the same in words.
        has_clean_loss: whether the descent batch is evaluated at the unperturbed weights.
        has_mean: whether a reference can be part of the gradient; not so for pure noise.
        per_micro_batch: whether a micro-batch can make its own perturbation.
        two_phase: whether a caller of ascend() can supply what the ascent needs.
    """

    perturbs: ClassVar[bool] = True
    needs: ClassVar[str | None] = None
    data: ClassVar[str] = ""
    has_clean_loss: ClassVar[bool] = False
    has_mean: ClassVar[bool] = True
    per_micro_batch: ClassVar[bool] = False
    two_phase: ClassVar[bool] = True


@dataclass
class NoAscent(Ascent):
    """No perturbation: the base optimizer."""

    name = "none"
    perturbs = False
    has_clean_loss = True
    per_micro_batch = True


@dataclass
class Batch(Ascent):
    """The descent batch itself (SAM, arXiv 2010.01412)."""

    name = "batch"
    has_clean_loss = True
    per_micro_batch = True


@dataclass
class OtherBatch(Ascent):
    """A batch other than the descent batch, of the same or another size (SAM-db, SAM-b).

    Attributes:
        ascent_batch_size: samples in it; None is the descent batch's size.
        ascent_nested: it shares samples with the descent batch: the smaller one is part of the larger one.
    """

    name = "other_batch"
    needs = OTHER_BATCH
    data = "a batch other than the descent batch"
    ascent_batch_size: int | None = of_the_loop(number(None, 1, COUNT))
    ascent_nested: bool = of_the_loop(dataclasses.field(default=False))


@dataclass
class FullSet(Ascent):
    """The gradient over the full training set, computed every `full_every_steps` steps and kept between."""

    name = "full"
    needs = FULL
    data = "the full training set"
    two_phase = False
    full_every_steps: int = number(1, 1, COUNT)


@dataclass
class Gaussian(Ascent):
    """A direction drawn from N(0, I), a function of (seed, step)."""

    name = "gaussian"
    has_mean = False


# --- component


@dataclass
class Component(Choice):
    """Second axis: which part d of the ascent gradient a is kept.

    Attributes:
        takes_reference: whether it is relative to a reference r.
        changes: whether d is other than a.
        linear: whether it forms d = alpha a - beta m in the memory of a, and sets `alpha` and `beta` of its parts.
    """

    takes_reference: ClassVar[bool] = True
    changes: ClassVar[bool] = True
    linear: ClassVar[bool] = False


@dataclass
class All(Component):
    """d = a."""

    name = "all"
    takes_reference = False
    changes = False


@dataclass
class Subtract(Component):
    """d = a - sigma r (F-SAM, arXiv 2403.12350 and Algorithm 1)."""

    name = "subtract"
    linear = True
    sigma: float = number(1.0, -1e6, 1e6)

    def check(self, chosen: Chosen) -> None:
        """Refuse a sigma for which order=paper turns the gradient round, or makes the first direction zero."""
        r = chosen.reference
        if not isinstance(r, Ema) or r.order != "paper":
            return
        if self.sigma * (1 - r.lmbda) > 1 - 1e-9:  # 1/(1-.9) is 10 but for the last bit
            limit = f"(= {1 / (1 - r.lmbda):g} for lmbda={r.lmbda:g})"
            raise ConfigError("sigma", self.sigma, f"{PAPER_SIGMA_LIMIT} {limit}")
        if self.sigma >= 1 and r.ema_init != "zero":
            raise ConfigError(
                "ema_init",
                r.ema_init,
                "with order=paper and sigma >= 1 the first direction is (1 - sigma) times the gradient: zero, or "
                "turned round; use ema_init=zero",
            )


@dataclass
class ProjectOut(Component):
    """d = a - (<a, r> / |r|^2) r: the batch-specific noise (SAM-noise)."""

    name = "project_out"


@dataclass
class ProjectOn(Component):
    """d = (<a, r> / |r|^2) r: the full-gradient component (SAM-component, Figure 1)."""

    name = "project_on"


@dataclass
class ReferenceOnly(Component):
    """d = r (SAM-full with the EMA as estimate; VaSSO, arXiv 2309.15639)."""

    name = "reference"


# --- reference


@dataclass
class Reference(Choice):
    """What a component is relative to.

    Attributes:
        needs: the extra data its closure runs on; None if it takes no closure.
    """

    needs: ClassVar[str | None] = None


@dataclass
class Ema(Reference):
    """Moving average of the raw ascent gradients, m_t = lmbda m_{t-1} + (1 - lmbda) a_t.

    Order `official` (nblt/F-SAM) uses m_{t-1}, so that the first step has no reference and is SAM's;
    `paper` (arXiv 2403.12350, Algorithm 1) uses m_t. Start `first_gradient` sets m_0 = a_0; `zero` sets
    m_{-1} = 0; `zero_debiased` divides by 1 - lmbda^n after n updates.
    """

    name = "ema"
    lmbda: float = number(0.9, 0, 1, open_high=True)
    order: str = word("official", "official", "paper")
    ema_init: str = word("first_gradient", "first_gradient", "zero", "zero_debiased")


@dataclass
class FullGradient(Reference):
    """The gradient over the full training set, recomputed every `full_every_steps` steps."""

    name = "full"
    needs = FULL
    full_every_steps: int = number(1, 1, COUNT)


# --- metric


@dataclass
class Metric(Choice):
    """Third axis: the metric T in eps = rho T^2 d / |T d|.

    Attributes:
        is_identity: whether T = 1.
    """

    is_identity: ClassVar[bool] = False


@dataclass
class L2(Metric):
    """T = 1: eps = rho d / |d|."""

    name = "l2"
    is_identity = True


@dataclass
class Adaptive(Metric):
    """ASAM's T (arXiv 2102.11600).

    Form `official`: T = |w| + eta for parameters with "weight" in their name, 1 for the others. Form
    `all`: T = |w| + eta for every parameter; with eta = 0 the popular PyTorch port and nblt/F-SAM, which
    need about four times the rho.
    """

    name = "adaptive"
    eta: float = number(0.01, 0, 1e6)
    adaptive_form: str = word("official", "official", "all")


# --- the whole family

C = TypeVar("C", bound=Choice)
T = TypeVar("T")


def table(*choices: type[C]) -> dict[str, type[C]]:
    """Return the choices of one axis by name."""
    return {c.name: c for c in choices}


ASCENTS: dict[str, type[Ascent]] = table(NoAscent, Batch, OtherBatch, FullSet, Gaussian)
COMPONENTS: dict[str, type[Component]] = table(All, Subtract, ProjectOut, ProjectOn, ReferenceOnly)
REFERENCES: dict[str, type[Reference]] = table(Ema, FullGradient)
METRICS: dict[str, type[Metric]] = table(L2, Adaptive)
AXES: dict[str, Mapping[str, type[Choice]]] = {
    "component": COMPONENTS,
    "reference": REFERENCES,
    "metric": METRICS,
    "ascent": ASCENTS,
}


@dataclass
class Chosen:
    """One choice on each axis, with its values."""

    ascent: Ascent
    component: Component
    reference: Reference | None
    metric: Metric

    @property
    def per_micro_batch(self) -> bool:
        """Whether a micro-batch can make its own perturbation."""
        return self.ascent.per_micro_batch and (self.reference is None or self.reference.needs is None)

    def check(self) -> None:
        """Refuse values that mean nothing together, by name.

        Raises:
            ConfigError: names the parameter and what would be allowed.
        """
        for choice in (self.ascent, self.component, self.reference, self.metric):
            if choice is not None:
                choice.check(self)


def choose(names: Mapping[str, str | None]) -> dict[str, type[Choice]]:
    """Return the classes in the rule book that `names` (axis: name) chooses; the reference may be None.

    Raises:
        ConfigError: an unknown name, or choices that mean nothing together.
    """
    for axis, choices in AXES.items():
        name = names[axis]
        if name is not None or axis != "reference":
            one_of(axis, str(name), tuple(choices))
    ascent, component = ASCENTS[str(names["ascent"])], COMPONENTS[str(names["component"])]
    reference = REFERENCES[names["reference"]] if names["reference"] is not None else None
    metric = METRICS[str(names["metric"])]
    for axis, idle in (("component", not component.changes), ("metric", metric.is_identity)):
        if not ascent.perturbs and not idle:
            raise ConfigError(axis, names[axis], f"ascent={ascent.name} perturbs nothing; choose an ascent gradient")
    if component.takes_reference != (reference is not None):
        wanted = f"needs {' or '.join(REFERENCES)}" if component.takes_reference else "takes none"
        raise ConfigError("reference", names["reference"], f"component={component.name} {wanted}")
    if reference is not None and not ascent.has_mean:
        allowed = f"the direction of ascent={ascent.name} has no mean to take apart; use component=all"
        raise ConfigError("reference", reference.name, allowed)
    if reference is not None and reference.needs == FULL == ascent.needs:
        allowed = f"the gradient of ascent={ascent.name} is the full gradient already; use component=all"
        raise ConfigError("reference", reference.name, allowed)
    found: dict[str, type[Choice] | None] = {
        "ascent": ascent,
        "component": component,
        "reference": reference,
        "metric": metric,
    }
    return {axis: choice for axis, choice in found.items() if choice is not None}


def users(parameter: str) -> str:
    """Return the choices that have a parameter, in words: `ascent=full or reference=full`."""
    found = [f"{axis}={c.name}" for axis, choices in AXES.items() for c in choices.values()]
    owners = [parameter in c.parameters() for choices in AXES.values() for c in choices.values()]
    return " or ".join(word for word, owner in zip(found, owners) if owner)


def parameter_types() -> dict[str, Any]:
    """Return the type of every parameter in the rule book; one name has one type wherever it stands.

    Raises:
        TypeError: two choices give one name two types.
    """
    found: dict[str, Any] = {}
    for choices in AXES.values():
        for choice in choices.values():
            hints = get_type_hints(choice)
            for name in choice.parameters():
                kind = hints[name] | None
                if found.setdefault(name, kind) != kind:
                    raise TypeError(f"{name} of {choice.__name__} is {kind}, and {found[name]} elsewhere")
    return found


def with_parameters(cls: type[T]) -> type[T]:
    """Give a schema, before it becomes a dataclass, one field for each parameter of the family: null by default.

    Raises:
        TypeError: the schema has a field of that name already.
    """
    for name, kind in parameter_types().items():
        if name in cls.__annotations__:
            raise TypeError(f"{name} is a key of every optimizer: a choice cannot have a parameter of that name")
        cls.__annotations__[name] = kind
        setattr(cls, name, None)
    return cls
