"""The base class of every choice: parameters with ranges, state, needs; and the view of a step that a choice gets.

Modules of this package import torch only inside functions. The schemas read the parameters of the choices here, and
composing, checking and submitting a sweep must not wait the seconds that the import of torch takes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_origin

from fsamlab.checks import check_fields, check_hint, types_of

if TYPE_CHECKING:
    from torch import Tensor

    from fsamlab.axes._ops import Number, Ops, Tensors
    from fsamlab.axes.choices import Choices

    State = Mapping[Tensor, dict[str, Any]]  # of each parameter; the choices' entries, not the base optimizer's

OTHER_BATCH, FULL = "other_batch", "full"  # data other than the descent batch that a choice may need
IN_EACH_STEP = "makes a pass over the full training set in each step (full_every_steps=1)"
FULL_GRADIENT = "full_gradient"  # the entry in a parameter's state that holds the gradient over FULL


@dataclass
class Choice:
    """A choice on one axis; the fields of a subclass (a dataclass) are the parameters of the choice.

    A field declares its range (`sigma: float = number(1.0, -10, 10)`), and `__post_init__` refuses values outside. A
    parameter that may be null has a type with None. The optimizer saves, loads and copies the state that `state_keys`
    and `values` name, and no other.

    Attributes:
        name: in a config; unique on the axis. A class without a name of its own has that of the class.
        needs: the extra data that a closure for the choice runs on; None if the choice takes no closure.
        data: the same in words.
        needs_clean: whether the choice needs the gradient of the descent batch at the unperturbed weights.
        needs_sample_losses: whether closures have to return a :class:`Pass` with the losses of the samples.
        needs_base_state: entries of the base optimizer's state that the choice reads: `momentum_buffer`, or
            `momentum_buffer or exp_avg` where one of two will do.
        per_micro_batch: whether each micro-batch of a step can have its own perturbation.
        state_keys: entries that the choice keeps in the state of a parameter. A floating-point tensor of the
            parameter's shape is loaded in the parameter's dtype, any other value as it was saved.
        values: attributes of the choice itself (numbers) that change from step to step.
        total_steps: of the whole training; None if the optimizer was not told. The optimizer sets it.
        fed: where steps are captured, a function from a schedule to the tensor (0-dim) that has its value in each step;
            see :meth:`scheduled`. The optimizer sets it.
    """

    name: ClassVar[str]
    needs: ClassVar[str | None] = None
    data: ClassVar[str] = ""
    needs_clean: ClassVar[bool] = False
    needs_sample_losses: ClassVar[bool] = False
    needs_base_state: ClassVar[tuple[str, ...]] = ()
    per_micro_batch: ClassVar[bool] = True
    state_keys: ClassVar[tuple[str, ...]] = ()
    values: ClassVar[tuple[str, ...]] = ()
    total_steps: ClassVar[int | None] = None
    fed: ClassVar[Any] = None

    @property
    def reads_verdict(self) -> bool:
        """Whether the choice has to know at once whether a step was taken or left out.

        On a GPU the host then waits once a step. If not, `values` and the numbers in a parameter's state become 0-dim
        tensors on the device, since the host does not know which steps count.
        """
        return False

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

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
        hints = types_of(cls)
        return tuple(name for name in cls.parameters() if type(None) not in get_args(hints[name]))

    @classmethod
    def floats(cls) -> tuple[str, ...]:
        """Return the names of the parameters that are numbers with a fraction, or null."""
        hints = types_of(cls)
        return tuple(name for name in cls.parameters() if hints[name] in (float, float | None))

    @property
    def needs_total_steps(self) -> bool:
        """Whether the choice, with its present values, goes by the share of the training that is done."""
        return False

    def share_of_training(self, number: int) -> float:
        """Return the share of the training that is done after `number` steps, at most 1; a step left out counts."""
        assert self.total_steps is not None  # the optimizer has asked needs_total_steps
        return min(1.0, number / self.total_steps)

    @property
    def uncapturable(self) -> str | None:
        """Why a step with this choice cannot be captured as a CUDA graph (train.cuda_graph); None if it can.

        A captured step repeats its kernels, and no Python runs: what follows from the number of the step has to come
        from :meth:`scheduled`, and nothing may be decided by a value on the device. A class of your own whose step is
        like that overrides this property and returns None.
        """
        own = type(self).__module__.startswith("fsamlab.")
        return None if own else "is a class of your own that does not say `uncapturable = None`"

    def scheduled(self, schedule: Callable[[int], float], number: int) -> Number:
        """Return schedule(number), `number` that of the steps before: a float, in a captured step a 0-dim tensor."""
        return schedule(number) if self.fed is None else self.fed(schedule)

    def check(self, choices: Choices) -> None:
        """Raise ConfigError if a value makes no sense together with the other choices."""

    def blank(self, p: Tensor) -> dict[str, Any]:
        """Return the state of parameter p before any step, with the types and shapes of a later state.

        torch.distributed.checkpoint loads into these entries; a training starts without entries.
        """
        import torch  # see the module's docstring

        return {key: torch.zeros_like(p) for key in self.state_keys}

    def logged(self, number: int) -> dict[str, Number]:
        """Return {metric key: value} for each row of a run, after `number` steps; see docs/metrics.md."""
        return {}

    def between(self, step: Step) -> None:
        """Act in a step that does not perturb, before the base steps; `p.grad` holds the gradient.

        The gradient is finite, or the step is taken back, as in :meth:`commit`.
        """

    def commit(self, parts: list[Part], state: State, ops: Ops) -> None:
        """Update the state after a perturbed step.

        A choice must not change its state earlier: a step that is left out leaves no trace. On the CPU all gradients of
        the step are finite. On a GPU they may not be, and the optimizer then takes the changes back.
        """
        for part in parts:
            self.update(part, state, ops)

    def update(self, part: Part, state: State, ops: Ops) -> None:
        """Update the state with one part of a perturbed step; called by :meth:`commit` for each part."""


def is_kept(needed: str, entries: Collection[str]) -> bool:
    """Return whether a base that keeps `entries` in its state has what a choice needs, `a` or `a or b`."""
    return any(name in entries for name in needed.split(" or "))


def of_the_loop(field: Any) -> Any:
    """Return a field that the training loop reads and the optimizer does not: on which data a closure runs."""
    return dataclasses.field(default=field.default, metadata={**field.metadata, "loop": True})


C = TypeVar("C", bound=Choice)


def table(*choices: type[C]) -> dict[str, type[C]]:
    """Return the choices of one axis by name."""
    for choice in choices:
        check_declaration(choice)
    return {c.name: c for c in choices}


def check_declaration(cls: type[Choice]) -> None:
    """Refuse a class whose parameters are no fields, or have a name or a type that cannot work.

    Raises:
        TypeError: what is wrong with the class, and what to write.
    """
    name = cls.__name__
    try:
        hints = types_of(cls)
    except NameError as e:
        raise TypeError(f"{name} has a type that is not known: {e}") from None
    fields = {f.name for f in dataclasses.fields(cls)}
    own = {key for key in inspect.get_annotations(cls) if get_origin(hints[key]) is not ClassVar}
    if own - fields:
        raise TypeError(f"{name} declares {', '.join(sorted(own - fields))}: write @dataclass above the class")
    for key, value in vars(cls).items():
        if isinstance(value, dataclasses.Field):
            raise TypeError(
                f"{name} declares {key} without a type: write {key}: float = ..., @dataclass above the class"
            )
    base = next(c for c in cls.__mro__ if Choice in c.__bases__)
    for key in sorted(fields):
        if hasattr(base, key):
            raise TypeError(f"{name} has a parameter {key}, which {base.__name__} uses already: rename the parameter")
        check_hint(f"{name}.{key}", hints[key])
    for key in ("state_keys", "values", "needs_base_state"):
        value = getattr(cls, key)
        if not isinstance(value, tuple | list) or not all(isinstance(one, str) for one in value):
            raise TypeError(f'{name}.{key} has to be a tuple of texts, for example {key} = ("mean",)')


@dataclass
class Part:
    """Tensors of one step that share rho and the form of their reference, r = on_a a + on_m m.

    Attributes:
        rho: radius of their parameter group; in a captured step 0-dim on the device where a schedule changes it.
        on_a: weight of the ascent gradient in r.
        on_m: weight of the stored tensor in r.
        params: the parameters.
        states: the choices' state of each parameter.
        a: `alpha` times the ascent gradient minus `beta` m; the gradient itself until a component
            reuses its memory for d.
        m: the stored tensors (EMA or full gradient); empty where there are none yet.
        d: the direction, once the component has set it.
    """

    rho: Number
    on_a: float
    on_m: float
    params: Tensors = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    a: Tensors = field(default_factory=list)
    m: Tensors = field(default_factory=list)
    d: Tensors = field(default_factory=list)
    alpha: float = 1.0
    beta: float = 0.0

    def ascent(self, ops: Ops) -> Tensors:
        """Return the ascent gradient as new tensors, computed back where a component has reused the memory of `a`."""
        found = ops.scaled(self.a, 1 / self.alpha)
        if self.beta != 0:
            ops.add_(found, self.m, alpha=self.beta / self.alpha)
        return found

    def reference(self, ops: Ops) -> Tensors | None:
        """Return r, which the caller must not write to; None if there is no reference yet."""
        reused = self.alpha != 1 or self.beta != 0
        a = self.ascent(ops) if self.on_a and reused else self.a
        if not self.m:
            return ops.scaled(a, self.on_a) if self.on_a else None
        if not self.on_a:
            return self.m if self.on_m == 1 else ops.scaled(self.m, self.on_m)
        r = ops.scaled(self.m, self.on_m)
        ops.add_(r, a, alpha=self.on_a)
        return r


@dataclass
class Pass:
    """The result of a closure that returns more than the loss.

    Attributes:
        loss: of the batch, one number.
        sample_losses: of the samples, shape (n,), in the order of the batch.
    """

    loss: Tensor | float
    sample_losses: Tensor | None = None


@dataclass
class Step:
    """The view of one step that a choice gets.

    Attributes:
        number: of steps before this one.
        seed: of this step's random numbers.
        params: the parameters with rho > 0, in the order of the groups.
        state: the choices' state of each parameter; a choice changes it in `commit`, `update` and `between` alone.
        base: the base optimizer's state of each parameter, to be read through :meth:`base_state`.
        groups: the parameter groups (`lr`, `rho`, `params`, ...), not to be written to.
        ops: arithmetic on lists of tensors.
        weights: the parameters named a weight; empty unless the metric is :attr:`Metric.by_name`.
        parts: the perturbed tensors; empty before the perturbation and in a step without one.
        clean: the gradient of the descent batch at the unperturbed weights, by parameter; empty unless the descent
            says `needs_clean`. Nobody else writes to these tensors: a descent may.
        path: where the ascent has several steps and the descent says `needs_path`, the gradients between: at the end of
            each ascent step but the last, in their order, by parameter. p.grad is the one at the end of the last.
        sample_losses: of the passes over the descent batch, as far as they are made and their closure returned a
            :class:`Pass`.
        drawn: the random tensors of this step, where :meth:`Ascent.draw` has made them before the step.
    """

    number: int
    seed: int
    params: Tensors
    state: State
    base: Mapping[Tensor, Mapping[str, Any]]
    groups: list[dict[str, Any]]
    ops: Ops
    weights: Collection[Tensor] = frozenset()
    parts: list[Part] = field(default_factory=list)
    clean: dict[Tensor, Tensor] = field(default_factory=dict)
    path: list[dict[Tensor, Tensor]] = field(default_factory=list)
    sample_losses: list[Tensor] = field(default_factory=list)
    drawn: list[Tensor | None] = field(default_factory=list)

    def base_state(self, p: Tensor) -> Mapping[str, Any]:
        """Return the base optimizer's state of p; empty before the base's first step."""
        return self.base.get(p, {})  # not base[p]: that would make an entry

    def gradients(self) -> tuple[Tensors, Tensors, Tensors]:
        """Return (parameters, clean gradients, `p.grad`) for parameters with both gradients, in group order."""
        params = [p for g in self.groups for p in g["params"] if p in self.clean and p.grad is not None]
        return params, [self.clean[p] for p in params], [p.grad for p in params if p.grad is not None]

    def inner(self, xs: Tensors, ys: Tensors) -> Tensor:
        """Return <x, y> over all tensors jointly, 0-dim on the device."""
        from fsamlab.axes._ops import global_dot  # see the module's docstring

        return global_dot(xs, ys)

    def ratio(self, x: Number, y: Number) -> Number:
        """Return x / y, and 0 for y = 0: a float on the CPU, elsewhere 0-dim on the device."""
        from fsamlab.axes._ops import ratio  # see the module's docstring

        return ratio(x, y)

    def norm(self, xs: Tensors) -> Number:
        """Return |x| over all tensors jointly: a float on the CPU, elsewhere 0-dim on the device."""
        from fsamlab.axes._ops import global_norm, number  # see the module's docstring

        return number(global_norm(xs, self.ops))


def step_seed(seed: int, step: int) -> int:
    """Return a generator seed for one step. Hashed, because CPU generators use its low 32 bits only."""
    return int.from_bytes(hashlib.blake2s(f"{seed}/{step}".encode(), digest_size=4).digest(), "little")
