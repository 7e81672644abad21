"""Fourth axis: the gradient that the base optimizer takes, made of the gradients at w + eps and at w."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fsamlab.axes.axis import Choice, Part, Step, table
from fsamlab.checks import ConfigError, number, word

if TYPE_CHECKING:
    from torch import Tensor

    from fsamlab.axes._ops import Number, Ops
    from fsamlab.axes.axis import State
    from fsamlab.axes.choices import Choices


@dataclass
class Descent(Choice):
    """The gradient with which the base takes its step.

    A subclass with `needs_clean = True` finds the gradients g at w in `step.clean`, which is empty for the others.

    Attributes:
        needs_path: whether the choice needs the gradients between the steps of an ascent, in `step.path`.
        selects: whether the gradient at w + eps is that of the samples which :meth:`select` chooses; the closure then
            has to run on a part of its batch (fsamlab.optim.SampleClosure).
    """

    per_micro_batch: ClassVar[bool] = False  # the gradients of micro-batches are averaged as they are
    needs_path: ClassVar[bool] = False
    selects: ClassVar[bool] = False

    def select(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the positions (int64) of the samples to take, given the losses (n,) at w and at w + eps."""
        raise NotImplementedError

    def set_gradients(self, step: Step) -> None:
        """Write the gradient of the base's step to p.grad, which holds g', the gradient at w + eps.

        g and g' are finite, but for a step on a GPU that is taken back. The weights are w again, and no choice has
        updated its state with this step yet.
        """

    def more(self, step: Step) -> bool:
        """Write the gradient of one more step of the base to p.grad and return True, or return False."""
        return False

    def after(self, step: Step) -> None:
        """Act after the steps of the base, in a step that perturbs."""


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
class Mixed(Descent):
    """lambda g' + (1 - lambda) g, lambda = `perturbed_share` (m-RWP, arXiv 2404.00357)."""

    name = "mixed"
    needs_clean = True
    perturbed_share: float = number(0.5, 0, 1)

    def set_gradients(self, step: Step) -> None:
        """Set p.grad = lambda g' + (1 - lambda) g."""
        _, clean, perturbed = step.gradients()
        if perturbed:
            step.ops.mul_(perturbed, self.perturbed_share)
            step.ops.add_(perturbed, clean, alpha=1 - self.perturbed_share)


@dataclass
class Sharpest(Descent):
    """The gradient at w + eps of the share gamma of the batch whose losses rose most (ESAM's SDS, arXiv 2110.03141).

    int(gamma n) samples, at least one, as in the paper; the authors' code takes one fewer (strictly above the last).
    """

    name = "sharpest"
    needs_sample_losses = True
    selects = True
    gamma: float = number(0.5, 0, 1, open_low=True)

    def check(self, choices: Choices) -> None:
        """Refuse an ascent without the losses at w, or with several steps."""
        if not choices.ascent.has_clean_loss or choices.ascent.num_ascents > 1:
            allowed = f"compares the losses at w and after one ascent step, which ascent={choices.ascent.name} has not"
            raise ConfigError("descent", self.name, allowed)

    def select(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the positions of the largest `after - before`, in the order of the batch."""
        count = max(1, int(self.gamma * len(before) + 1e-9))  # 0.29 * 100 is 28.999...
        return (after - before).topk(count).indices.sort().values


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


@dataclass
class Lookbehind(Descent):
    """k steps of the base with the gradients at the ends of k ascent steps, then a part of the way (arXiv 2307.16704).

    The base steps from w with grad L_B(w + eps_1), ..., grad L_B(w + eps_k) to phi; then w <- w + alpha (phi - w).
    Alpha of form `fixed` is `alpha`. Otherwise it is (1 + cos) / 2, cos between phi - w and the first of the k steps:
    of each tensor by itself in the form `adaptive`, as in the authors' code (chandar-lab/Lookbehind-SAM), or of all
    tensors jointly in the form `adaptive_joint`.
    """

    name = "lookbehind"
    needs_path = True
    alpha: float | None = number(0.5, 0, 1, open_low=True)
    alpha_form: str = word("fixed", "fixed", "adaptive", "adaptive_joint")

    def check(self, choices: Choices) -> None:
        """Refuse an alpha that the form does not read, and a form without its alpha."""
        if self.alpha_form == "fixed" and self.alpha is None:
            raise ConfigError("alpha", None, "has to be set with alpha_form=fixed")
        if self.alpha_form != "fixed" and self.alpha is not None:
            raise ConfigError("alpha", self.alpha, f"has no effect with alpha_form={self.alpha_form}: leave it null")

    def set_gradients(self, step: Step) -> None:
        """Keep w; set p.grad to the gradient at the end of the first ascent step."""
        params = [p for group in step.groups for p in group["params"] if p.grad is not None]
        self._coming = [*step.path, {p: p.grad for p in params}]
        moving = dict.fromkeys(p for gradients in self._coming for p in gradients)
        self._slow = {p: p.clone() for p in moving}
        self._first: dict[Tensor, Tensor] = {}
        self.more(step)

    def more(self, step: Step) -> bool:
        """Set p.grad to the gradient at the end of the next ascent step."""
        if self.alpha_form != "fixed" and not self._first and len(self._coming) < len(step.path) + 1:
            self._first = {p: p - w for p, w in self._slow.items()}
        if not self._coming:
            return False
        gradients = self._coming.pop(0)
        for p in self._slow:
            p.grad = gradients.get(p)
        return True

    def after(self, step: Step) -> None:
        """Set w <- w + alpha (phi - w)."""
        if not self._slow:
            return
        params, slow = list(self._slow), list(self._slow.values())
        way = step.ops.scaled(params, 1.0)
        step.ops.add_(way, slow, alpha=-1.0)
        parts = [range(len(params))] if self.alpha_form != "adaptive" else [[i] for i in range(len(params))]
        for part in parts:
            chosen = [way[i] for i in part]
            alpha: Number | None = self.alpha
            if alpha is None:
                first = [self._first[params[i]] for i in part]
                alpha = (1 + step.ratio(step.inner(first, chosen), step.norm(first) * step.norm(chosen))) / 2
            step.ops.copy_([params[i] for i in part], [slow[i] for i in part])
            step.ops.add_([params[i] for i in part], chosen, alpha=alpha)
        self._coming, self._slow, self._first = [], {}, {}


DESCENTS: dict[str, type[Descent]] = table(
    Perturbed, Rescaled, Mixed, Sharpest, SurrogateGap, Weighted, Look, Lookbehind
)
