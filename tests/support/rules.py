"""The rule of each variant in conf/optimizer/ in paper notation, made of fsamlab.optim.reference.

A rule is made of the optimizer's configuration. Its step(w, k) returns the weights after step k; `losses(k, w)` are
those of the samples of batch k at w, OTHER + k the batch of a further ascent batch, FULL the full training set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fsamlab.axes.axis import step_seed
from fsamlab.optim import reference

Vector = list[torch.Tensor]
OTHER, FULL = 1000, 999


@dataclass
class Rule:
    """What a rule is made from: the optimizer's configuration, the base, the losses, and the model for its names."""

    cfg: Any
    base: Any
    losses: Callable[[int, Vector], torch.Tensor]
    model: nn.Module
    seed: int
    total_steps: int

    def at(self, k: int, w: Vector, samples: list[int] | slice = slice(None)) -> Vector:
        """Return the gradient at w of the mean loss of batch k, or of some of its samples."""
        w = [x.detach().clone().requires_grad_() for x in w]
        return list(torch.autograd.grad(self.losses(k, w)[samples].mean(), w))

    def sam(self, d: Vector) -> Vector:
        """Return the perturbation of length rho along d."""
        return reference.sam(d, self.cfg.rho)

    def asam(self, d: Vector, w: Vector) -> Vector:
        """Return the perturbation along d in the metric of ASAM."""
        weights = ["weight" in name or self.cfg.adaptive_form == "all" for name, _ in self.model.named_parameters()]
        return reference.asam(d, w, self.cfg.rho, self.cfg.eta, weights)

    def fisher(self, d: Vector, g: Vector) -> Vector:
        """Return the perturbation along d in the metric of FisherSAM."""
        return reference.fisher_sam(d, g, self.cfg.rho, self.cfg.eta)

    def moved(self, w: Vector, eps: Vector, k: int) -> Vector:
        """Return the gradient of batch k at w + eps."""
        return self.at(k, [a + b for a, b in zip(w, eps)])

    def fsam(self) -> reference.FSAM:
        """Return F-SAM's direction with the parameters of the variant."""
        return reference.FSAM(self.cfg.sigma or 0.0, self.cfg.lmbda, self.cfg.order, self.cfg.ema_init)


Step = Callable[[Vector, int], Vector]


def plain(r: Rule) -> Step:
    """Return the base's step."""
    return lambda w, k: r.base.step(w, r.at(k, w))


def along(direction: Callable[[Rule], Callable[[Vector, int], Vector]]) -> Callable[[Rule], Step]:
    """Return the rule: the base steps with the gradient at w + rho d / |d|, d = direction(w, k)."""

    def rule(r: Rule) -> Step:
        d = direction(r)
        return lambda w, k: r.base.step(w, r.moved(w, r.sam(d(w, k)), k))

    return rule


def of_ema(form: Callable[[reference.FSAM, Vector], Vector], batch: int = 0) -> Callable[[Rule], Step]:
    """Return the rule along a direction made of the EMA and the gradient of batch k, or of `batch` + k."""

    def direction(r: Rule) -> Callable[[Vector, int], Vector]:
        fsam = r.fsam()
        return lambda w, k: form(fsam, r.at(batch + k, w))

    return along(direction)


def without_projection(fsam: reference.FSAM, g: Vector) -> Vector:
    """Return g without its projection on the EMA of the steps before; g itself in the first step."""
    before = fsam.m
    fsam.direction(g)
    return g if before is None else reference.project_out(g, before)


def of_full(form: Callable[[Vector, Vector], Vector]) -> Callable[[Rule], Step]:
    """Return the rule along a direction made of the gradients of the batch and of the full training set."""
    return along(lambda r: lambda w, k: form(r.at(k, w), r.at(FULL, w)))


def combined(combine: Callable[[Rule, Vector, Vector], Vector]) -> Callable[[Rule], Step]:
    """Return the rule: the base steps with combine(g, h), h the gradient at w + rho g / |g|."""

    def rule(r: Rule) -> Step:
        def step(w: Vector, k: int) -> Vector:
            g = r.at(k, w)
            return r.base.step(w, combine(r, g, r.moved(w, r.sam(g), k)))

        return step

    return rule


def in_metric(perturbation: Callable[[Rule, Vector, Vector, Vector], Vector], friendly: bool) -> Callable[[Rule], Step]:
    """Return the rule with eps = perturbation(d, g, w); d is F-SAM's direction, or g."""

    def rule(r: Rule) -> Step:
        fsam = r.fsam() if friendly else None

        def step(w: Vector, k: int) -> Vector:
            g = r.at(k, w)
            d = g if fsam is None else fsam.direction(g)
            return r.base.step(w, r.moved(w, perturbation(r, d, g, w), k))

        return step

    return rule


def wsam(r: Rule) -> Step:
    """Return WSAM's step, decoupled."""

    def step(w: Vector, k: int) -> Vector:
        g = r.at(k, w)
        return reference.wsam_step(w, g, r.moved(w, r.sam(g), k), r.cfg.gamma, r.base)

    return step


def msam(r: Rule) -> Step:
    """Return MSAM's step; the first step has no momentum yet."""

    def step(w: Vector, k: int) -> Vector:
        v = r.base.v if isinstance(r.base, reference.SGD) else r.base.m
        return r.base.step(w, r.at(k, w) if v is None else r.moved(w, reference.msam(v, r.cfg.rho), k))

    return step


def esam(r: Rule) -> Step:
    """Return ESAM's step: with a share gamma, h is taken on the samples whose losses rose most."""

    def step(w: Vector, k: int) -> Vector:
        generator = torch.Generator().manual_seed(step_seed(r.seed, k))
        drawn = [bool(torch.rand((), generator=generator) < r.cfg.beta) for _ in w]
        eps = reference.esam_swp(r.at(k, w), drawn, r.cfg.rho, r.cfg.beta, r.cfg.swp_norm == "all")
        if not r.cfg.gamma:
            return r.base.step(w, r.moved(w, eps, k))
        moved = [a + b for a, b in zip(w, eps)]
        samples = reference.esam_samples(r.losses(k, w), r.losses(k, moved), r.cfg.gamma)
        return r.base.step(w, r.at(k, moved, samples))

    return step


def rwp(r: Rule) -> Step:
    """Return the step of RWP, or of m-RWP."""
    draw = noise(r)

    def step(w: Vector, k: int) -> Vector:
        h = r.moved(w, reference.rwp(w, draw(w, k), r.cfg.rho), k)
        share = r.cfg.perturbed_share
        return r.base.step(w, h if share is None else reference.m_rwp(r.at(k, w), h, share))

    return step


def climbed(r: Rule, w: Vector, k: int) -> list[Vector]:
    """Return the perturbations at the ends of the ascent steps."""
    length = r.cfg.rho / (r.cfg.ascent_steps if r.cfg.ascent_length == "divided" else 1)
    return reference.ascents(w, lambda x: r.at(k, x), length, r.cfg.ascent_steps)


def multistep_sam(r: Rule) -> Step:
    """Return the step of Multistep-SAM."""
    return lambda w, k: r.base.step(w, r.moved(w, climbed(r, w, k)[-1], k))


def lookbehind(r: Rule) -> Step:
    """Return the step of Lookbehind-SAM with a fixed alpha."""
    return lambda w, k: reference.lookbehind(w, lambda x: r.at(k, x), climbed(r, w, k), r.cfg.alpha, r.base)


def looksam(r: Rule) -> Step:
    """Return LookSAM's step."""
    rule = reference.LookSAM(r.cfg.alpha)

    def step(w: Vector, k: int) -> Vector:
        g = r.at(k, w)
        if k % r.cfg.every:
            return r.base.step(w, rule.between(g))
        return r.base.step(w, rule.perturbed(g, r.moved(w, r.sam(g), k)))

    return step


def ae_sam(r: Rule) -> Step:
    """Return AE-SAM's step."""
    rule = reference.AESAM(r.total_steps, r.cfg.delta, r.cfg.lambda_1, r.cfg.lambda_2)

    def step(w: Vector, k: int) -> Vector:
        g = r.at(k, w)
        return r.base.step(w, r.moved(w, r.sam(g), k) if rule.perturbs(g) else g)

    return step


def le_sam(r: Rule) -> Step:
    """Return LE-SAM's step, rho as the largest radius."""

    def step(w: Vector, k: int) -> Vector:
        cfg = r.cfg
        sigma = reference.le_sam_sigma(k, r.total_steps, cfg.budget, cfg.budget_warmup, cfg.budget_decay)
        return r.base.step(w, r.moved(w, reference.le_sam(r.at(k, w), sigma, cfg.rho), k))

    return step


def on_norms(r: Rule) -> Step:
    """Return SAM's step where the parameters of normalisation modules alone are perturbed."""
    norms = {id(p) for m in r.model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    chosen = [id(p) in norms for p in r.model.parameters()]

    def step(w: Vector, k: int) -> Vector:
        d = [g if own else torch.zeros_like(g) for g, own in zip(r.at(k, w), chosen)]
        return r.base.step(w, r.moved(w, r.sam(d), k))

    return step


def noise(r: Rule) -> Callable[[Vector, int], Vector]:
    """Return the direction drawn in step k."""

    def draw(w: Vector, k: int) -> Vector:
        generator = torch.Generator().manual_seed(step_seed(r.seed, k))
        return [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in w]

    return draw


RULES: dict[str, Callable[[Rule], Step]] = {
    "sgd": plain,
    "sgd_2x": plain,
    "adamw": plain,
    "sam": along(lambda r: lambda w, k: r.at(k, w)),
    "sam_full": of_full(lambda g, full: full),
    "sam_component": of_full(reference.project_on),
    "sam_noise": of_full(reference.project_out),
    "sam_db": along(lambda r: lambda w, k: r.at(OTHER + k, w)),
    "sam_batch": along(lambda r: lambda w, k: r.at(OTHER + k, w)),
    "random": along(noise),
    "fsam": of_ema(reference.FSAM.direction),
    "fsam_quarter": of_ema(reference.FSAM.direction, OTHER),
    "sam_full_ema": of_ema(reference.FSAM.reference),
    "vasso": of_ema(reference.FSAM.reference),
    "sam_noise_ema": of_ema(without_projection),
    "asam": in_metric(lambda r, d, g, w: r.asam(d, w), friendly=False),
    "fasam": in_metric(lambda r, d, g, w: r.asam(d, w), friendly=True),
    "fisher_sam": in_metric(lambda r, d, g, w: reference.fisher_sam(d, g, r.cfg.rho, r.cfg.eta), friendly=False),
    "friendly_fisher_sam": in_metric(
        lambda r, d, g, w: reference.fisher_sam(d, g, r.cfg.rho, r.cfg.eta), friendly=True
    ),
    "usam": in_metric(lambda r, d, g, w: reference.usam(d, r.cfg.rho), friendly=False),
    "gsam": combined(lambda r, g, h: reference.gsam(g, h, r.cfg.alpha)),
    "sam_rescaled": combined(lambda r, g, h: reference.rescaled(g, h)),
    "wsam": wsam,
    "looksam": looksam,
    "msam": msam,
    "esam": esam,
    "esam_swp": esam,
    "rwp": rwp,
    "m_rwp": rwp,
    "multistep_sam": multistep_sam,
    "lookbehind": lookbehind,
    "sam_on": on_norms,
    "ae_sam": ae_sam,
    "unified_sam": in_metric(lambda r, d, g, w: reference.unified_sam(d, r.cfg.rho, r.cfg.mix), friendly=False),
    "le_sam": le_sam,
}
