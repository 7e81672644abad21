"""First axis: where the ascent gradient a comes from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fsamlab.axes.axis import (
    FULL,
    FULL_GRADIENT,
    IN_EACH_STEP,
    OTHER_BATCH,
    Choice,
    Step,
    of_the_loop,
    step_seed,
    table,
)
from fsamlab.checks import COUNT, ConfigError, number, word

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fsamlab.axes._ops import Number
    from fsamlab.axes.choices import Choices


@dataclass
class Ascent(Choice):
    """Where the ascent gradient comes from.

    Attributes:
        perturbs: whether there is an ascent at all.
        has_clean_loss: whether the ascent makes a pass over the descent batch at the unperturbed weights; its
            gradient is in p.grad then. An ascent without this pass, and without `needs`, finds no gradients.
        has_mean: whether the ascent gradient has a mean that a reference can estimate; false for pure noise, and for
            an average of gradients.
        two_phase: whether a caller of ascend() can supply the gradients that the ascent needs.
    """

    perturbs: ClassVar[bool] = True
    has_clean_loss: ClassVar[bool] = False
    has_mean: ClassVar[bool] = True
    two_phase: ClassVar[bool] = True
    per_micro_batch: ClassVar[bool] = False

    @property
    def num_ascents(self) -> int:
        """The number of ascent steps in a step of the optimizer, each along the gradient where the last one ended."""
        return 1

    @property
    def length(self) -> Number:
        """The length of an ascent step in units of rho."""
        return 1.0

    def gradients(self, step: Step) -> list[Tensor | None]:
        """Return the ascent gradient of each of `step.params`, None for a parameter without a gradient.

        The optimizer owns the tensors from then on: a component may write to them.
        """
        return [owned_gradient(p) for p in step.params]

    def draw(self, step: Step) -> list[Tensor | None]:
        """Return the random tensors of a step, a function of (seed, step); empty where the ascent draws none.

        A captured step finds them in `step.drawn`: a generator that a step seeds cannot be captured.
        """
        return []


def owned_gradient(p: Tensor) -> Tensor | None:
    """Return p.grad as a tensor that no later backward or zero_grad writes to.

    Raises:
        ValueError: a sparse gradient.
    """
    grad = p.grad
    if grad is None:
        return None
    if grad.is_sparse:
        raise ValueError("sparse gradients have no joint norm with dense ones: build the embedding with sparse=False")
    # A view belongs to a larger buffer (gradient buckets) that the next backward fills again.
    return grad.clone() if grad._is_view() else grad


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
class MultiStep(Batch):
    """k ascent steps on the descent batch: eps_j = eps_{j-1} + r grad L_B(w + eps_{j-1}) / |...|, eps = eps_k.

    Length `full`: r = rho, so that |eps| is up to k rho (Multistep-SAM of arXiv 2307.16704). Length `divided`:
    r = rho / k, so that eps stays in the ball of SAM.

    Attributes:
        ascent_steps: k; with k = 1 it is SAM.
        ascent_length: `full` or `divided`.
    """

    name = "multi_step"
    two_phase = False
    per_micro_batch = False
    ascent_steps: int = number(2, 1, COUNT)
    ascent_length: str = word("full", "full", "divided")

    @property
    def num_ascents(self) -> int:
        """Return k."""
        return self.ascent_steps

    @property
    def length(self) -> Number:
        """Return 1, or 1 / k."""
        return 1.0 if self.ascent_length == "full" else 1 / self.ascent_steps


@dataclass
class SomeTensors(Batch):
    """The descent batch, on tensors drawn in each step: stochastic weight perturbation (ESAM, arXiv 2110.03141).

    Each tensor is perturbed with probability beta, and eps is divided by beta, so that its mean is that of SAM's. With
    swp_norm `selected`, as in the authors' code (dydjw9/Efficient_SAM), |g| runs over the drawn tensors; with `all`,
    as in the paper, over all of them. The draw is a function of (seed, step).
    """

    name = "some_tensors"
    beta: float = number(0.6, 0, 1, open_low=True)
    swp_norm: str = word("selected", "selected", "all")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._share: Number = 1.0  # |g of the drawn tensors| / |g|, where eps goes by the latter

    @property
    def uncapturable(self) -> str:
        """Why a step cannot be captured."""
        return "draws in each step, on the host, which tensors are perturbed"

    def check(self, choices: Choices) -> None:
        """Refuse |g| over all tensors where eps goes by another vector than g."""
        if self.swp_norm == "all" and (choices.metric.name, choices.component.name) != ("l2", "all"):
            allowed = "needs metric=l2 and component=all, since the length is that of the gradient; choose selected"
            raise ConfigError("swp_norm", "all", allowed)

    @property
    def length(self) -> Number:
        """Return 1 / beta; with swp_norm `all` times |g of the drawn tensors| / |g|."""
        return 1 / self.beta * self._share

    def gradients(self, step: Step) -> list[Tensor | None]:
        """Return the gradients of the drawn tensors, None for the others."""
        import torch  # not at the top: see axis.py

        generator = torch.Generator().manual_seed(step.seed)
        found = super().gradients(step)
        # One draw for each tensor, so that a tensor more at the end changes nothing for the others.
        chosen = [g if torch.rand((), generator=generator) < self.beta else None for g in found]
        if self.swp_norm == "all":
            norms = [step.norm([g for g in gradients if g is not None]) for gradients in (chosen, found)]
            self._share = step.ratio(*norms)
        return chosen


@dataclass
class OtherBatch(Ascent):
    """A batch other than the descent batch, of the same or another size (SAM-db, SAM-b).

    Attributes:
        ascent_batch_size: number of samples; None means the size of the descent batch.
        ascent_share: the number of samples as a share of the descent batch instead, also of a smaller last one.
        ascent_nested: whether the smaller of the two batches is part of the larger one.
    """

    name = "other_batch"
    needs = OTHER_BATCH
    data = "a batch other than the descent batch"
    ascent_batch_size: int | None = of_the_loop(number(None, 1, COUNT))
    ascent_share: float | None = of_the_loop(number(None, 0, 1000, open_low=True))
    ascent_nested: bool = of_the_loop(dataclasses.field(default=False))

    def check(self, choices: Choices) -> None:
        """Refuse two sizes."""
        if self.ascent_batch_size is not None and self.ascent_share is not None:
            raise ConfigError("ascent_share", self.ascent_share, "ascent_batch_size is set too: leave one of them null")


@dataclass
class FullSet(Ascent):
    """The gradient over the full training set, computed every `full_every_steps` steps and kept in between."""

    name = "full"
    needs = FULL
    data = "the full training set"
    two_phase = False
    state_keys = (FULL_GRADIENT,)
    full_every_steps: int = number(1, 1, COUNT)

    @property
    def uncapturable(self) -> str | None:
        """Why a step cannot be captured."""
        return IN_EACH_STEP if self.full_every_steps == 1 else None

    def gradients(self, step: Step) -> list[Tensor | None]:
        """Return copies of the stored full gradient, since components may write to the tensors that they get."""
        stored = [step.state.get(p, {}).get(FULL_GRADIENT) for p in step.params]
        return [None if g is None or not p.requires_grad else g.clone() for p, g in zip(step.params, stored)]


@dataclass
class Gaussian(Ascent):
    """A direction drawn from N(0, I), a function of (seed, step)."""

    name = "gaussian"
    has_mean = False

    def gradients(self, step: Step) -> list[Tensor | None]:
        """Return one draw for each trainable parameter."""
        return step.drawn or self.draw(step)

    def draw(self, step: Step) -> list[Tensor | None]:
        """Return one draw for each trainable parameter."""
        import torch  # not at the top: see axis.py

        from fsamlab.axes.sharded import normal_like

        generators: dict[torch.device, torch.Generator] = {}
        for device in dict.fromkeys(p.device for p in step.params):
            # no two devices draw the same numbers
            own = step_seed(step.seed, len(generators)) if generators else step.seed
            generators[device] = torch.Generator(device).manual_seed(own)
        return [normal_like(p, generators[p.device]) if p.requires_grad else None for p in step.params]


@dataclass
class FilterGaussian(Gaussian):
    """A direction drawn from N(0, |w_f|^2), w_f the filter of a weight, for a tensor of one dimension all of it.

    Random weight perturbation (arXiv 2404.00357): with the metric `unnormalised` rho is its sigma. A filter is what
    belongs to one index of the first dimension.
    """

    name = "filter_gaussian"

    def gradients(self, step: Step) -> list[Tensor | None]:
        """Return one draw for each trainable parameter."""
        import torch  # not at the top: see axis.py

        found = []
        for p, z in zip(step.params, super().gradients(step)):
            dims = tuple(range(1, p.dim())) or None
            found.append(z if z is None else z * torch.linalg.vector_norm(p.detach(), dim=dims, keepdim=True))
        return found


@dataclass
class FilterGaussianBeside(FilterGaussian):
    """The same, beside a pass over the descent batch at w, whose gradient a descent may mix in (m-RWP)."""

    name = "filter_gaussian_beside"
    has_clean_loss = True

    def gradients(self, step: Step) -> list[Tensor | None]:
        """Return one draw for each parameter with a gradient at w."""
        return [None if p.grad is None else z for p, z in zip(step.params, super().gradients(step))]


@dataclass
class Momentum(Ascent):
    """a = -v, v the momentum of the base (MSAM, arXiv 2401.12033, Algorithm 1): no pass of its own.

    v is SGD's `momentum_buffer`, weight decay in it, or Adam's `exp_avg`, as in the authors' code. The weights move
    along the step that the momentum is about to take, since that step overshoots in the directions of large curvature.
    The first step has no v, and leaves the weights unperturbed.
    """

    name = "momentum"
    has_mean = False
    needs_base_state = ("momentum_buffer or exp_avg",)

    def gradients(self, step: Step) -> list[Tensor | None]:
        """Return -v of each trainable parameter; None where the base keeps no v yet."""
        # The optimizer turns eps around where a base maximizes, and v of such a base is turned around already.
        turned = {p for group in step.groups if group.get("maximize") for p in group["params"]}
        found = []
        for p in step.params:
            entries = step.base_state(p)
            v = entries.get("momentum_buffer", entries.get("exp_avg"))
            found.append(None if v is None or not p.requires_grad else v.clone() if p in turned else -v)
        return found


ASCENTS: dict[str, type[Ascent]] = table(
    NoAscent,
    Batch,
    MultiStep,
    SomeTensors,
    OtherBatch,
    FullSet,
    Gaussian,
    FilterGaussian,
    FilterGaussianBeside,
    Momentum,
)
