"""Each rule as plainly as its paper states it: slow, per tensor, in numpy's spirit. The tests' yardstick.

A step is a function of (weights, state) and of gradient functions; nothing is shared with the fast code.
Notation: w weights, g = grad L_B(w), G = grad L(w) over the full set, m the EMA, eps the perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Vector = list[Tensor]
Gradient = Callable[[Vector], Vector]


def dot(xs: Vector, ys: Vector) -> float:
    """<x, y> over all tensors jointly."""
    return sum(float((x * y).sum()) for x, y in zip(xs, ys))


def norm(xs: Vector) -> float:
    """|x| over all tensors jointly."""
    return dot(xs, xs) ** 0.5


def sam(g: Vector, rho: float) -> Vector:
    """SAM (arXiv 2010.01412): eps = rho g / |g|."""
    return [rho * x / norm(g) for x in g]


def asam(d: Vector, w: Vector, rho: float, eta: float, is_weight: list[bool]) -> Vector:
    """ASAM (arXiv 2102.11600): eps = rho T^2 d / |T d|, T = |w| + eta on weights, 1 elsewhere."""
    t = [x.abs() + eta if weight else torch.ones_like(x) for x, weight in zip(w, is_weight)]
    td = [a * b for a, b in zip(t, d)]
    return [rho * a * b / norm(td) for a, b in zip(t, td)]


def fisher_sam(d: Vector, g: Vector, rho: float, eta: float) -> Vector:
    """FisherSAM (arXiv 2206.04920): eps = rho F^-1 d / sqrt(<d, F^-1 d>), F = 1 + eta diag(g^2)."""
    p = [x / (1 + eta * y**2) for x, y in zip(d, g)]
    return [rho * x / dot(d, p) ** 0.5 for x in p]


def msam(v: Vector, rho: float) -> Vector:
    """MSAM (arXiv 2401.12033): eps = -rho v / |v|, v the momentum before this step."""
    return [-rho * x / norm(v) for x in v]


def usam(g: Vector, rho: float) -> Vector:
    """USAM (arXiv 2206.06232): eps = rho g."""
    return [rho * x for x in g]


def unified_sam(g: Vector, rho: float, mix: float) -> Vector:
    """Unified SAM (arXiv 2503.02225): eps = rho (1 - lambda + lambda / |g|) g, lambda = mix."""
    return [rho * (1 - mix + mix / norm(g)) * x for x in g]


def le_sam(g: Vector, sigma: float, rho_max: float) -> Vector:
    """LE-SAM (arXiv 2605.10183): eps = rho_t g / |g|, rho_t = min(sigma_t / |g|, rho_max)."""
    return sam(g, min(sigma / norm(g), rho_max))


def le_sam_sigma(t: int, total: int, sigma: float, warmup: float, decay: float) -> float:
    """sigma_t of LE-SAM's code: a line from 0, constant, half a cosine to 0; warmup and decay are shares of `total`."""
    if t < warmup * total:
        return sigma * t / (warmup * total)
    if t > decay * total:
        return sigma * (1 + math.cos(math.pi * (t - decay * total) / (total - decay * total))) / 2
    return sigma


@dataclass
class AESAM:
    """The decision of AE-SAM (arXiv 2304.14647): SAM's step if |g|^2 >= mu_t + c_t sigma_t, else the base's."""

    total: int
    delta: float
    lambda_1: float
    lambda_2: float
    mu: float = 0.0
    variance: float = 0.0
    t: int = 0

    def perturbs(self, g: Vector) -> bool:
        """Take |g_t|^2 into mean and variance; return whether the step perturbs."""
        square = norm(g) ** 2
        self.mu = self.delta * self.mu + (1 - self.delta) * square
        self.variance = self.delta * self.variance + (1 - self.delta) * (square - self.mu) ** 2
        c = self.t / self.total * self.lambda_1 + (1 - self.t / self.total) * self.lambda_2
        self.t += 1
        return square >= self.mu + c * self.variance**0.5


def esam_swp(g: Vector, drawn: list[bool], rho: float, beta: float, norm_of_all: bool) -> Vector:
    """ESAM's SWP (arXiv 2110.03141): eps_i = rho g_i / (beta |g|) of the drawn tensors, 0 of the others."""
    chosen = [x if one else torch.zeros_like(x) for x, one in zip(g, drawn)]
    length = norm(g if norm_of_all else chosen)
    return [rho / beta * x / length if length else x for x in chosen]


def esam_samples(before: Tensor, after: Tensor, gamma: float) -> list[int]:
    """ESAM's SDS (arXiv 2110.03141): the int(gamma n) samples whose losses rose most from w to w + eps."""
    rise = (after - before).tolist()
    return sorted(range(len(rise)), key=lambda i: -rise[i])[: max(1, int(round(gamma * len(rise), 6)))]


def rwp(w: Vector, z: Vector, sigma: float) -> Vector:
    """RWP (arXiv 2404.00357): eps = sigma |w_f| z, w_f the filter of the weight, z from N(0, I)."""
    lengths = [x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1)) if x.dim() > 1 else x.norm() for x in w]
    return [sigma * length * y for length, y in zip(lengths, z)]


def m_rwp(g: Vector, h: Vector, lmbda: float) -> Vector:
    """m-RWP (arXiv 2404.00357): lambda h + (1 - lambda) g, h = grad L_B(w + eps)."""
    return [lmbda * y + (1 - lmbda) * x for x, y in zip(g, h)]


def ascents(w: Vector, gradient: Gradient, r: float, k: int) -> list[Vector]:
    """Multistep-SAM (arXiv 2307.16704): eps_1, ..., eps_k, eps_j = eps_{j-1} + r grad L_B(w + eps_{j-1}) / |...|."""
    found = [[torch.zeros_like(x) for x in w]]
    for _ in range(k):
        g = gradient([a + b for a, b in zip(w, found[-1])])
        found.append([a + b for a, b in zip(found[-1], sam(g, r))])
    return found[1:]


def lookbehind(w: Vector, gradient: Gradient, eps: list[Vector], alpha: float | str, base: SGD | AdamW) -> Vector:
    """Lookbehind-SAM (arXiv 2307.16704): phi of k base steps with grad L_B(w + eps_j), then w + alpha (phi - w).

    Alpha `adaptive` is (1 + cos) / 2 of each tensor, cos between the first base step and phi - w; `adaptive_joint` that
    of all tensors.
    """
    phis = [w]
    for e in eps:
        phis.append(base.step(phis[-1], gradient([a + b for a, b in zip(w, e)])))
    first, way = ([a - b for a, b in zip(phi, w)] for phi in (phis[1], phis[-1]))
    if isinstance(alpha, float):
        alphas = [alpha] * len(w)
    elif alpha == "adaptive":
        alphas = [(1 + dot([a], [b]) / (norm([a]) * norm([b]))) / 2 for a, b in zip(first, way)]
    else:
        alphas = [(1 + dot(first, way) / (norm(first) * norm(way))) / 2] * len(w)
    return [x + alpha * y for x, alpha, y in zip(w, alphas, way)]


def gsam(g: Vector, h: Vector, alpha: float) -> Vector:
    """GSAM (arXiv 2203.08065): h - alpha (part of g orthogonal to h), h = grad L_B(w + eps)."""
    return [y - alpha * x for x, y in zip(project_out(g, h), h)]


def gsam_radius(lr: float, lr_min: float, lr_max: float, rho_min: float, rho_max: float) -> float:
    """GSAM's radius (arXiv 2203.08065): as far from rho_min to rho_max as lr is from lr_min to lr_max."""
    return rho_min + (rho_max - rho_min) * (lr - lr_min) / (lr_max - lr_min)


def annealed(t: int, total: int, start: float, end: float, cosine: bool) -> float:
    """From `start` at step 0 to `end` at step `total`, along a line or half a cosine."""
    s = (1 - math.cos(math.pi * t / total)) / 2 if cosine else t / total
    return (1 - s) * start + s * end


def rescaled(g: Vector, h: Vector) -> Vector:
    """h with the length of g, h = grad L_B(w + eps)."""
    return [norm(g) / norm(h) * y for y in h]


def wsam(g: Vector, h: Vector, gamma: float) -> Vector:
    """WSAM (arXiv 2305.15817), coupled: g + gamma / (1 - gamma) (h - g), h = grad L_B(w + eps)."""
    return [x + gamma / (1 - gamma) * (y - x) for x, y in zip(g, h)]


def wsam_step(w: Vector, g: Vector, h: Vector, gamma: float, base: SGD | AdamW) -> Vector:
    """WSAM (arXiv 2305.15817), decoupled: the base's step with g, then w <- w - lr gamma / (1 - gamma) (h - g)."""
    stepped = base.step(w, g)
    return [a - base.lr * gamma / (1 - gamma) * (y - x) for a, x, y in zip(stepped, g, h)]


@dataclass
class LookSAM:
    """The gradient of LookSAM's step (arXiv 2203.02714): h with its part v orthogonal to g, or g and the last v."""

    alpha: float
    v: Vector | None = None

    def perturbed(self, g: Vector, h: Vector) -> Vector:
        """A step with a second pass, h = grad L_B(w + eps)."""
        self.v = project_out(h, g)
        return h

    def between(self, g: Vector) -> Vector:
        """A step without one."""
        if self.v is None:
            return g
        return [x + self.alpha * norm(g) / norm(self.v) * y for x, y in zip(g, self.v)]


@dataclass
class FSAM:
    """The direction of F-SAM (arXiv 2403.12350) with its EMA.

    Algorithm 1 (order `paper`): m_t = lmbda m_{t-1} + (1 - lmbda) g_t, d_t = g_t - sigma m_t, m_{-1} = 0.
    Official code (order `official`): d_t = g_t - sigma m_{t-1}, then the EMA takes the raw g_t in; d_0 = g_0.
    """

    sigma: float
    lmbda: float
    order: str = "official"
    ema_init: str = "first_gradient"
    m: Vector | None = None
    t: int = field(default=0)

    def debiased(self, m: Vector, updates: int) -> Vector:
        """m / (1 - lmbda^updates) with ema_init=zero_debiased, else m."""
        if self.ema_init != "zero_debiased":
            return m
        return [x / (1 - self.lmbda**updates) for x in m]

    def updated(self, g: Vector) -> Vector:
        """The EMA with g taken in."""
        if self.m is None and self.ema_init == "first_gradient":
            return [x.clone() for x in g]
        m = self.m if self.m is not None else [torch.zeros_like(x) for x in g]
        return [self.lmbda * a + (1 - self.lmbda) * b for a, b in zip(m, g)]

    def direction(self, g: Vector) -> Vector:
        """One step: return d_t and take g_t into the EMA."""
        old, new = self.m, self.updated(g)
        if self.order == "paper":
            d = [a - self.sigma * b for a, b in zip(g, self.debiased(new, self.t + 1))]
        elif old is None:
            d = [x.clone() for x in g]
        else:
            d = [a - self.sigma * b for a, b in zip(g, self.debiased(old, self.t))]
        self.m, self.t = new, self.t + 1
        return d

    def reference(self, g: Vector) -> Vector:
        """SAM-full (EMA): the direction is m_t itself, g_t in it."""
        self.m, self.t = self.updated(g), self.t + 1
        return self.debiased(self.m, self.t)


def project_on(g: Vector, r: Vector) -> Vector:
    """(<g, r> / |r|^2) r, the projection of g on r; for r = G it is SAM-component, which the paper does not have."""
    c = dot(g, r) / dot(r, r)
    return [c * x for x in r]


def project_out(g: Vector, r: Vector) -> Vector:
    """g minus its projection on r, SAM-noise of Figure 1 for r = G."""
    return [a - b for a, b in zip(g, project_on(g, r))]


@dataclass
class SGD:
    """SGD with momentum and coupled weight decay, as torch defines it: v <- mu v + g + wd w, w <- w - lr v."""

    lr: float
    momentum: float
    weight_decay: float
    v: Vector | None = None

    def step(self, w: Vector, g: Vector) -> Vector:
        """Return the weights after one step."""
        g = [a + self.weight_decay * b for a, b in zip(g, w)]
        self.v = g if self.v is None else [self.momentum * a + b for a, b in zip(self.v, g)]
        return [a - self.lr * b for a, b in zip(w, self.v)]


@dataclass
class AdamW:
    """AdamW (arXiv 1711.05101, Algorithm 2)."""

    lr: float
    weight_decay: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    t: int = 0
    m: Vector | None = None
    v: Vector | None = None

    def step(self, w: Vector, g: Vector) -> Vector:
        """Return the weights after one step."""
        self.t += 1
        m = self.m if self.m is not None else [torch.zeros_like(x) for x in g]
        v = self.v if self.v is not None else [torch.zeros_like(x) for x in g]
        self.m = [self.beta1 * a + (1 - self.beta1) * b for a, b in zip(m, g)]
        self.v = [self.beta2 * a + (1 - self.beta2) * b * b for a, b in zip(v, g)]
        result = []
        for x, a, b in zip(w, self.m, self.v):
            mean, square = a / (1 - self.beta1**self.t), b / (1 - self.beta2**self.t)
            result.append(x - self.lr * self.weight_decay * x - self.lr * mean / (square.sqrt() + self.eps))
        return result


def step(w: Vector, perturbation: Vector, descent: Gradient, base: SGD | AdamW) -> Vector:
    """w <- base step at w with grad L_B(w + eps)."""
    return base.step(w, descent([a + b for a, b in zip(w, perturbation)]))
