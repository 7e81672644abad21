"""F-SAM in a loop as plain as its paper states it, with micro-batches: the yardstick of the programs in examples/.

Nothing is shared with the optimizer: direction and base are those of fsamlab.optim.reference; weights are moved here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsamlab.optim import reference

Batch = tuple[Tensor, Tensor]
SGD = {"momentum": 0.9, "weight_decay": 5e-4}


def cosine(lr: float, step: int, steps: int) -> float:
    """Return the rate of a step of the cosine schedule without restarts."""
    return lr * (1 + math.cos(math.pi * step / steps)) / 2


def gradient(model: nn.Module, batches: list[Batch], loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Return the mean over micro-batches of the gradients of their mean losses."""
    model.zero_grad()
    for x, y in batches:
        (loss(model(x), y) / len(batches)).backward()
    return [p.grad.clone() for p in model.parameters()]


@torch.no_grad()
def write(model: nn.Module, weights: list[Tensor]) -> None:
    """Set the weights."""
    for p, w in zip(model.parameters(), weights):
        p.copy_(w)


def train(
    model: nn.Module,
    steps: Iterable[list[Batch]],
    rate: Callable[[int], float],
    rho: float,
    clip: float,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    after: Callable[[int], None] = lambda step: None,
) -> nn.Module:
    """Train the model in place and return it.

    Args:
        model: its norms count each micro-batch once, in the pass at w.
        steps: the micro-batches of each step.
        rate: learning rate of a step, from 0.
        rho: radius.
        clip: greatest norm of the gradient at w + eps.
        loss: of outputs and targets.
        after: called with the number of steps made.
    """
    model.train()
    rule, base = reference.FSAM(sigma=1.0, lmbda=0.9), reference.SGD(lr=0.0, **SGD)
    for t, micro_batches in enumerate(steps):
        w = [p.detach().clone() for p in model.parameters()]
        d = rule.direction(gradient(model, micro_batches, loss))
        counted = copy.deepcopy(dict(model.named_buffers()))
        write(model, [a + rho * x / reference.norm(d) for a, x in zip(w, d)])
        h = gradient(model, micro_batches, loss)
        for name, buffer in model.named_buffers():
            buffer.copy_(counted[name])
        shrink = min(1.0, clip / (reference.norm(h) + 1e-6))  # as torch's clip_grad_norm_
        base.lr = rate(t)
        write(model, base.step(w, [shrink * x for x in h]))
        after(t + 1)
    return model
