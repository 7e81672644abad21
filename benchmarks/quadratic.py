"""SGD, F-SAM and the EMA of gradients on a quadratic loss: exact second moments, a bound, and a simulation.

The loss is the mean of N quadratic losses of samples with one Hessian H. In the eigenbasis of H, with curvatures h, the
gradient of a batch is g_t = x_t + xi_t: x_t = grad L(w_t) = h (w_t - w*), and xi_t is the mean of the deviations z_i of
the batch's samples. SGD and the EMA are linear in the start x_0 and in all xi_t. Every second moment therefore follows
from the responses to three inputs and from the covariances of the xi_t, with replacement and in shuffled epochs.
docs/theory.md derives the bound; ema_error.py draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fsamlab.optim import FSAM

UNPERTURBED = 1e-9  # a radius at which F-SAM is SGD to nine digits, and still keeps its EMA


@dataclass(frozen=True)
class Quadratic:
    """L(w) = 1/2 (w - w*)' H (w - w*) in the eigenbasis of H, with the gradients of all samples.

    Attributes:
        curvatures: eigenvalues h of H (d,).
        deviations: z (N, d), gradient of each sample minus the full gradient; the mean over the samples is zero.
        start: x_0 = grad L(w_0) (d,).
    """

    curvatures: Tensor
    deviations: Tensor
    start: Tensor

    @property
    def noise(self) -> Tensor:
        """The variance (d,) of the gradient of one sample."""
        return self.deviations.square().mean(0)


@dataclass(frozen=True)
class Batches:
    """Batches of `size` samples: drawn with replacement, or (shuffled) the parts of a new permutation in each epoch."""

    num_samples: int
    size: int
    shuffled: bool

    def __post_init__(self) -> None:
        if self.num_samples % self.size:
            raise ValueError(f"size {self.size} does not divide the number of samples, {self.num_samples}")

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.num_samples // self.size

    @property
    def factor(self) -> float:
        """N / (N - 1) for shuffled epochs, else 1: factor * variance / size bounds what a batch adds to a variance."""
        return self.num_samples / (self.num_samples - 1) if self.shuffled else 1.0


@dataclass(frozen=True)
class Training:
    """SGD with F-SAM's EMA: v = momentum v + g, w -= lr v, m_0 = g_0, m_t = lmbda m_{t-1} + (1 - lmbda) g_t."""

    lr: float
    lmbda: float
    momentum: float = 0.0


def responses(curvatures: Tensor, training: Training, num_steps: int) -> dict[str, Tensor]:
    """Return what the inputs "x_0 = 1", "xi_0 = 1" and "xi_1 = 1" alone make of each output, (3, T, d) for each.

    The outputs are full = x_t, batch = g_t, new = m_t, old = m_{t-1} (x_0 at step 0: the EMA does not exist yet), and
    still = m_t if the weights stood still, without x_0.
    """
    x = torch.zeros(3, len(curvatures), dtype=torch.float64)
    x[0] = 1
    m, v, still = x, torch.zeros_like(x), torch.zeros_like(x)
    keep, take = training.lmbda, 1 - training.lmbda
    outputs: dict[str, list[Tensor]] = {name: [] for name in ("full", "batch", "new", "old", "still")}
    for t in range(num_steps):
        xi = torch.zeros_like(x)
        if t < 2:
            xi[t + 1] = 1
        g, old = x + xi, m
        m = g if t == 0 else keep * m + take * g
        still = xi if t == 0 else keep * still + take * xi
        for name, value in {"full": x, "batch": g, "new": m, "old": old, "still": still}.items():
            outputs[name].append(value)
        v = training.momentum * v + g
        x = x - training.lr * curvatures * v
    return {name: torch.stack(values, 1) for name, values in outputs.items()}


def mean_square(response: Tensor, quadratic: Quadratic, batches: Batches) -> Tensor:
    """Return E|y_t|^2 (T,) of an output y with these responses (3, T, d).

    With S the variance of one sample and b the size of a batch, xi_t has the variance S / b with replacement. In a
    shuffled epoch Cov(xi_i, xi_j) = S (N / b [i = j] - 1) / (N - 1); different epochs are independent.
    """
    to_start, to_first, to_later = response
    num_steps, d = to_start.shape
    age = torch.arange(num_steps)[:, None] - torch.arange(num_steps)[None, :]  # t - j
    c = to_later[(age + 1).clamp(0, num_steps - 1)] * (age >= 0)[..., None]  # (t, j, d): what xi_j makes of y_t
    c[num_steps - 1, 0] = 0  # age + 1 was clamped; xi_0 has a response of its own:
    c[:, 0] = to_first
    n, b = batches.num_samples, batches.size
    if batches.shuffled:
        c = torch.nn.functional.pad(c, (0, 0, 0, -num_steps % batches.per_epoch))
        epochs = c.reshape(num_steps, -1, batches.per_epoch, d)
        weight = (n / b * epochs.square().sum((1, 2)) - epochs.sum(2).square().sum(1)) / (n - 1)
    else:
        weight = c.square().sum(1) / b
    return (to_start * quadratic.start).square().sum(1) + weight @ quadratic.noise


def exact(quadratic: Quadratic, batches: Batches, training: Training, num_steps: int) -> dict[str, Tensor]:
    """Return expected squares (T,), exactly, of:

    error = m_t - grad L(w_t); old = m_{t-1} - grad L(w_t); noise and drift, the two parts of error; full = grad L(w_t);
    batch = the gradient of the batch.
    """
    r = responses(quadratic.curvatures, training, num_steps)
    parts = {
        "error": r["new"] - r["full"],
        "old": r["old"] - r["full"],
        "noise": r["still"],
        "drift": r["new"] - r["full"] - r["still"],
        "full": r["full"],
        "batch": r["batch"],
    }
    return {name: mean_square(part, quadratic, batches) for name, part in parts.items()}


def cosine(quadratic: Quadratic, batches: Batches, training: Training, num_steps: int) -> Tensor:
    """Return E<m_{t-1}, x_t> / sqrt(E|m_{t-1}|^2 E|x_t|^2) (T,), x_t = grad L(w_t)."""
    r = responses(quadratic.curvatures, training, num_steps)
    m, x, apart = (mean_square(y, quadratic, batches) for y in (r["old"], r["full"], r["old"] - r["full"]))
    return (m + x - apart) / (2 * (m * x).sqrt())


def bound(
    quadratic: Quadratic,
    batches: Batches,
    training: Training,
    num_steps: int,
    full: float | None = None,
    rho: float = 0,
) -> Tensor:
    """Return a bound (T,) of E|m_t - grad L(w_t)|^2 for SGD and, with rho > 0, for every perturbation of length rho.

    Args:
        quadratic, batches, training, num_steps: of the training; momentum 0, lr < 2 / L with L the largest curvature.
        full: a bound of the root mean square of grad L(w_t) over the steps; None takes the one that holds for SGD.
        rho: radius of the perturbation; needs `full`.

    Raises:
        ValueError: the bound does not hold for such a training.
    """
    s = training.lr * float(quadratic.curvatures.max())
    if training.momentum or not 0 <= s < 2 or (rho and full is None):
        raise ValueError(f"the bound needs momentum 0, lr < 2 / L, and the size of the gradient if rho > 0: {training}")
    variance = batches.factor * float(quadratic.noise.sum()) / batches.size
    if full is None:
        full = math.sqrt(float(quadratic.start.square().sum()) + variance * s / (2 - s))
    lmbda, t = training.lmbda, torch.arange(num_steps, dtype=torch.float64)
    fades = lmbda**t
    rise = rho * float(quadratic.curvatures.max())  # |H eps| <= L rho

    def with_noise(s: float) -> Tensor:
        """Return the root mean square of all xi in the error; s = 0 leaves out that they move the weights."""
        middle = (lmbda**2 - fades**2) / (1 - lmbda**2)
        squares = (1 - lmbda) ** 2 + (1 - lmbda + s) ** 2 * middle + (1 + s) ** 2 * fades**2
        squares[0] = 1
        return (variance * squares).sqrt()

    near = with_noise(s) + s * lmbda * (1 - fades) / (1 - lmbda) * (full + rise)
    far = with_noise(0) + 2 * lmbda * full * (t > 0)  # m_0 has no other gradient in it than that at w_0
    return torch.minimum(near, far).square()


def draw(batches: Batches, num_steps: int, generator: torch.Generator) -> Tensor:
    """Return the samples (T, b) of the batches of one training."""
    if not batches.shuffled:
        return torch.randint(batches.num_samples, (num_steps, batches.size), generator=generator)
    epochs = -(-num_steps // batches.per_epoch)
    order = torch.cat([torch.randperm(batches.num_samples, generator=generator) for _ in range(epochs)])
    return order.reshape(-1, batches.size)[:num_steps]


def simulate(
    quadratic: Quadratic, batches: Batches, training: Training, num_steps: int, seeds: range, rho: float = UNPERTURBED
) -> dict[str, Tensor]:
    """Return |m_t - grad L(w_t)|^2 as `error` and |grad L(w_t)|^2 as `full`, (seeds, T), of trainings with FSAM.

    At the radius UNPERTURBED one optimizer trains all seeds at once, each seed a row of one tensor; at other radii the
    joint norm would couple the rows, so that each seed has an optimizer of its own.
    """
    if rho != UNPERTURBED and len(seeds) > 1:
        alone = [simulate(quadratic, batches, training, num_steps, range(s, s + 1), rho) for s in seeds]
        return {name: torch.cat([one[name] for one in alone]) for name in alone[0]}
    samples = [draw(batches, num_steps, torch.Generator().manual_seed(seed)) for seed in seeds]
    noise = torch.stack([quadratic.deviations[s].mean(1) for s in samples], 1)  # (T, seeds, d)
    at_start = (quadratic.start / quadratic.curvatures).expand(len(seeds), -1)
    w = torch.nn.Parameter(at_start.clone())  # w - w*
    base = torch.optim.SGD([w], lr=training.lr, momentum=training.momentum)
    optimizer = FSAM(base, rho=rho, lmbda=training.lmbda)
    nothing = torch.zeros((), dtype=torch.float64)  # the loss, which no rule here reads

    def closure_on(xi: Tensor) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            w.grad = quadratic.curvatures * w.detach() + xi
            return nothing

        return closure

    errors, fulls = [], []
    for xi in noise:
        full = quadratic.curvatures * w.detach()
        optimizer.step(closure_on(xi))
        errors.append((optimizer.state[w]["ema"] - full).square().sum(1))
        fulls.append(full.square().sum(1))
    return {"error": torch.stack(errors, 1), "full": torch.stack(fulls, 1)}
