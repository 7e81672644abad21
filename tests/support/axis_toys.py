"""Small choices on the axes descent, when, ascent and metric: what the other members of the family are made of.

They are classes outside the package, and lie here to be named by an import path: `support.axis_toys:Orthogonal`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fsamlab.axes import Ascent, Descent, Metric, When, number


@dataclass
class Orthogonal(Descent):
    """g' - alpha (part of g orthogonal to g'), as in GSAM (arXiv 2203.08065)."""

    name = "orthogonal"
    needs_clean = True
    alpha: float = number(0.5, 0, 10)

    def set_gradients(self, step):
        _, clean, perturbed = step.gradients()
        along = step.inner(clean, perturbed) / step.inner(perturbed, perturbed)
        step.ops.mul_(perturbed, 1 + self.alpha * along)
        step.ops.add_(perturbed, clean, alpha=-self.alpha)


@dataclass
class Decoupled(Descent):
    """The base's step with g, then w -= lr kappa (g' - g), as in WSAM (arXiv 2305.15817)."""

    needs_clean = True
    kappa: float = number(0.5, 0, 10)

    def set_gradients(self, step):
        params, clean, perturbed = step.gradients()
        self.further = {p: q - g for p, g, q in zip(params, clean, perturbed)}
        step.ops.copy_(perturbed, clean)

    def after(self, step):
        for group in step.groups:
            for p in group["params"]:
                p.sub_(self.further[p], alpha=group["lr"] * self.kappa)


@dataclass
class Reuse(Descent):
    """Between perturbations, add share times the last g' - g to the gradient, as in LookSAM (arXiv 2203.02714)."""

    needs_clean = True
    state_keys = ("difference",)
    share: float = number(0.5, 0, 10)

    def set_gradients(self, step):
        params, clean, perturbed = step.gradients()
        self.latest = {p: q - g for p, g, q in zip(params, clean, perturbed)}

    def commit(self, parts, state, ops):
        for p, x in self.latest.items():
            state[p]["difference"] = x

    def between(self, step):
        for p in step.params:
            if p.grad is not None and "difference" in step.state[p]:
                p.grad.add_(step.state[p]["difference"], alpha=self.share)


@dataclass
class Steep(When):
    """Perturb where |g|^2 is above its own average, as in AE-SAM; the first step perturbs."""

    needs_clean = True
    values = ("average",)
    keep: float = number(0.5, 0, 1)

    def __post_init__(self):
        super().__post_init__()
        self.average = 0.0

    def decide(self, step):
        self.square = float(step.norm([p.grad for p in step.params])) ** 2
        return self.square > self.average

    def between(self, step):
        self.average = self.keep * self.average + (1 - self.keep) * self.square

    def commit(self, parts, state, ops):
        self.average = self.keep * self.average + (1 - self.keep) * self.square


@dataclass
class Against(Ascent):
    """a = -v, the base's momentum, without a pass of its own (MSAM, arXiv 2401.12033)."""

    name = "against"
    needs_base_state = ("momentum_buffer",)

    def gradients(self, step):
        found = [step.base_state(p).get("momentum_buffer") for p in step.params]
        return [None if v is None else -v for v in found]


@dataclass
class Fisher(Metric):
    """T^2 = 1 / (1 + eta_f a^2), as in Fisher SAM (arXiv 2206.04920)."""

    eta_f: float = number(1.0, 0, 100)

    def prepare(self, a, params):
        self.t = {p: (1 + self.eta_f * x * x).rsqrt() for p, x in zip(params, a)}

    def stretch(self, xs, params, weights, state, ops):
        return [x * self.t[p] for x, p in zip(xs, params)]


@dataclass
class Hard(Descent):
    """g' times the share of samples whose loss the perturbation raises, for the sake of the losses (ESAM)."""

    needs_sample_losses = True

    def set_gradients(self, step):
        before, after = step.sample_losses
        share = (after > before).float().mean()
        step.ops.mul_([p.grad for p in step.params if p.grad is not None], share)


class Undecorated(Descent):
    """A class whose author forgot @dataclass."""

    alpha: float = number(0.5, 0, 10)


def a_function():
    """No class."""
