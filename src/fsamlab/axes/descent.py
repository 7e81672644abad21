"""Fourth axis: the gradient that the base optimizer takes, made of the gradients at w + eps and at w."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fsamlab.axes.axis import Choice, Part, Step, table
from fsamlab.checks import number, word

if TYPE_CHECKING:
    from fsamlab.axes._ops import Ops
    from fsamlab.axes.axis import State


@dataclass
class Descent(Choice):
    """The gradient with which the base takes its step.

    A subclass with `needs_clean = True` finds the gradients g at w in `step.clean`, which is empty for the others.
    """

    per_micro_batch: ClassVar[bool] = False  # the gradients of micro-batches are averaged as they are

    def set_gradients(self, step: Step) -> None:
        """Write the gradient of the base's step to p.grad, which holds g', the gradient at w + eps.

        g and g' are finite. The weights are w again, and no choice has updated its state with this step yet.
        """

    def after(self, step: Step) -> None:
        """Act after the step of the base, in a step that perturbs."""


@dataclass
class Perturbed(Descent):
    """The gradient at w + eps (SAM, arXiv 2010.01412)."""

    name = "perturbed"
    per_micro_batch = True


@dataclass
class Rescaled(Descent):
    """|g| g' / |g'|: the direction of the gradient at w + eps with the length of the clean gradient."""

    name = "rescaled"
    needs_clean = True

    def set_gradients(self, step: Step) -> None:
        """Set p.grad = |g| / |g'| g'; a g' of zero stays zero."""
        _, clean, perturbed = step.gradients()
        step.ops.mul_(perturbed, step.ratio(step.norm(clean), step.norm(perturbed)))


@dataclass
class SurrogateGap(Descent):
    """g' - alpha h, h the part of g orthogonal to g' (GSAM, arXiv 2203.08065, Algorithm 1).

    The step minimises the perturbed loss, and ascends in the direction in which the clean loss alone grows: that closes
    the gap between the two losses.
    """

    name = "surrogate_gap"
    needs_clean = True
    alpha: float = number(0.4, 0, 1e3)

    def set_gradients(self, step: Step) -> None:
        """Set p.grad = g' - alpha (g - (<g, g'> / |g'|^2) g')."""
        _, clean, perturbed = step.gradients()
        share = step.ratio(step.inner(clean, perturbed), step.inner(perturbed, perturbed))
        step.ops.mul_(perturbed, 1 + self.alpha * share)
        step.ops.add_(perturbed, clean, alpha=-self.alpha)


@dataclass
class Weighted(Descent):
    """The sharpness g' - g weighted by kappa = gamma / (1 - gamma) (WSAM, arXiv 2305.15817, Algorithm 1).

    Form `decoupled`, the default of the authors' code (dlrover): the base steps with g, then w -= lr kappa (g' - g).
    Form `coupled`: the base steps with g + kappa (g' - g). gamma 0 is the base, gamma 1/2 in form `coupled` is SAM.
    """

    name = "weighted"
    needs_clean = True
    gamma: float = number(0.9, 0, 1, open_high=True)
    wsam_form: str = word("decoupled", "decoupled", "coupled")

    @property
    def kappa(self) -> float:
        """The weight of the sharpness."""
        return self.gamma / (1 - self.gamma)

    def set_gradients(self, step: Step) -> None:
        """Set p.grad = g, keeping g' - g for :meth:`after`; or p.grad = g + kappa (g' - g)."""
        params, clean, perturbed = step.gradients()
        step.ops.add_(perturbed, clean, alpha=-1.0)  # the sharpness, in the memory of g'
        if self.wsam_form == "coupled":
            step.ops.mul_(perturbed, self.kappa)
            step.ops.add_(perturbed, clean)
            return
        for p, g, sharpness in zip(params, clean, perturbed):
            p.grad, step.clean[p] = g, sharpness

    def after(self, step: Step) -> None:
        """Set w <- w - lr kappa (g' - g) with the lr of each group, without weight decay or momentum."""
        if self.wsam_form == "coupled":
            return
        for group in step.groups:
            params = [p for p in group["params"] if p in step.clean and p.grad is not None]
            if params:
                sign = -1 if group.get("maximize") else 1
                step.ops.add_(params, [step.clean[p] for p in params], alpha=-sign * group["lr"] * self.kappa)


@dataclass
class Look(Descent):
    """g' in a step that perturbs; between, g + alpha (|g| / |v|) v, v the part of the last g' orthogonal to its g.

    LookSAM, arXiv 2203.02714, Algorithm 1: v changes slowly, so that one pass makes up for the second one in the steps
    between. Norms and the projection run over all tensors jointly, as in the paper.
    """

    name = "look"
    needs_clean = True
    state_keys = ("vertical",)
    alpha: float = number(0.7, 0, 1e3)

    def set_gradients(self, step: Step) -> None:
        """Leave g' in p.grad; form v = g' - (<g', g> / |g|^2) g in the memory of g."""
        perturbed_here = set(step.params)
        found = [(p, g, h) for p, g, h in zip(*step.gradients()) if p in perturbed_here]
        clean, perturbed = [g for _, g, _ in found], [h for _, _, h in found]
        if found:
            step.ops.mul_(clean, -step.ratio(step.inner(perturbed, clean), step.inner(clean, clean)))
            step.ops.add_(clean, perturbed)
        self._found = {p: v for p, v, _ in found}

    def commit(self, parts: list[Part], state: State, ops: Ops) -> None:
        """Keep v."""
        for p, v in self._found.items():
            state[p]["vertical"] = v
        self._found = {}

    def between(self, step: Step) -> None:
        """Set p.grad = g + alpha (|g| / |v|) v, over the tensors that have a v; before the first v, g stays."""
        known = [(p.grad, step.state[p]["vertical"]) for p in step.params if "vertical" in step.state[p]]
        gradients = [g for g, _ in known if g is not None]
        vertical = [v for g, v in known if g is not None]
        if gradients:
            scale = step.ratio(step.norm(gradients), step.norm(vertical))
            step.ops.add_(gradients, vertical, alpha=self.alpha * scale)


DESCENTS: dict[str, type[Descent]] = table(Perturbed, Rescaled, SurrogateGap, Weighted, Look)
