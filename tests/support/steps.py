"""A small classification for optimizers: batch k is a function of k, so that two loops see the same batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsamlab.optim import SampleClosure


def batch(k: int, n: int = 16) -> tuple[Tensor, Tensor]:
    """Return inputs (n, 6) and labels of three classes (n,)."""
    generator = torch.Generator().manual_seed(k)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def batch_for(model: nn.Module, k: int) -> tuple[Tensor, Tensor]:
    """Return batch k on the device of the model, its inputs in the dtype of the model."""
    x, y = batch(k)
    w = next(model.parameters())
    return x.to(w), y.to(w.device)


def plain_closure(model: nn.Module, k: int) -> Callable[[], Tensor]:
    """Return a closure on batch k, in the dtype of the model, that leaves zero_grad() to the loop."""
    x, y = batch_for(model, k)

    def closure() -> Tensor:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def sample_closure_of(
    model: nn.Module, k: int, zero_grad: Callable[[], None], scale: Callable[[Tensor], Tensor] | None = None
) -> SampleClosure:
    """Return a closure on batch k that can run on a part of the batch."""
    x, y = batch_for(model, k)
    return SampleClosure(lambda i: F.cross_entropy(model(x[i]), y[i], reduction="none"), zero_grad, scale)


def closure_of(model: nn.Module, k: int, zero_grad: Callable[[], None] | None = None) -> Callable[[], Tensor]:
    """Return a closure on batch k that zeroes the gradients first, by the model or by `zero_grad`."""
    run = plain_closure(model, k)

    def closure() -> Tensor:
        (zero_grad or model.zero_grad)()
        return run()

    return closure
