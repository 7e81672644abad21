"""Arithmetic on lists of tensors: one multi-tensor call (`Foreach`) or a loop (`Loop`), same results.

A coefficient is a float, or a 0-dim tensor on the parameters' device where reading it would stall the
device. In-place functions end in an underscore. No list may be empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = list[Tensor]
Number = float | Tensor

LOW_PRECISION = (torch.float16, torch.bfloat16)


class Foreach:
    """One dispatched call per list."""

    @staticmethod
    def copy_(xs: Tensors, ys: Tensors) -> None:
        """x <- y."""
        torch._foreach_copy_(xs, ys)

    @staticmethod
    def add_(xs: Tensors, ys: Tensors, alpha: Number = 1.0) -> None:
        """x <- x + alpha y."""
        if isinstance(alpha, Tensor):
            torch._foreach_add_(xs, Foreach.scaled(ys, alpha))
        else:
            torch._foreach_add_(xs, ys, alpha=alpha)

    @staticmethod
    def mul_(xs: Tensors, factor: Number) -> None:
        """x <- factor x."""
        torch._foreach_mul_(xs, factor)

    @staticmethod
    def scaled(xs: Tensors, factor: Number) -> Tensors:
        """Return new tensors factor x."""
        return list(torch._foreach_mul(xs, factor))

    @staticmethod
    def weighted(xs: Tensors, ws: Tensors, eta: float) -> Tensors:
        """Return new tensors (|w| + eta) x."""
        ts = torch._foreach_abs(ws)
        torch._foreach_add_(ts, eta)
        torch._foreach_mul_(ts, xs)
        return list(ts)

    @staticmethod
    def norms(xs: Tensors) -> Tensors:
        """Return the l2 norm of each tensor, in float32 at least."""
        if any(x.dtype in LOW_PRECISION for x in xs):
            return list(torch._foreach_norm(xs, 2, dtype=torch.float32))
        return list(torch._foreach_norm(xs))


class Loop:
    """One call per tensor: the plain form, and the only one for devices without multi-tensor kernels."""

    @staticmethod
    def copy_(xs: Tensors, ys: Tensors) -> None:
        """x <- y."""
        for x, y in zip(xs, ys):
            x.copy_(y)

    @staticmethod
    def add_(xs: Tensors, ys: Tensors, alpha: Number = 1.0) -> None:
        """x <- x + alpha y."""
        for x, y in zip(xs, ys):
            if isinstance(alpha, Tensor):
                x.add_(y * alpha)
            else:
                x.add_(y, alpha=alpha)

    @staticmethod
    def mul_(xs: Tensors, factor: Number) -> None:
        """x <- factor x."""
        for x in xs:
            x.mul_(factor)

    @staticmethod
    def scaled(xs: Tensors, factor: Number) -> Tensors:
        """Return new tensors factor x."""
        return [x * factor for x in xs]

    @staticmethod
    def weighted(xs: Tensors, ws: Tensors, eta: float) -> Tensors:
        """Return new tensors (|w| + eta) x."""
        return [w.abs().add_(eta).mul_(x) for x, w in zip(xs, ws)]

    @staticmethod
    def norms(xs: Tensors) -> Tensors:
        """Return the l2 norm of each tensor, in float32 at least."""
        return [torch.linalg.vector_norm(x, dtype=torch.float32 if x.dtype in LOW_PRECISION else None) for x in xs]


Ops = type[Foreach] | type[Loop]


def number(x: Tensor) -> Number:
    """Return a 0-dim tensor as a float where reading it is free (CPU), else as it is."""
    return x.item() if x.device.type == "cpu" else x


def radius_over_norm(norm_d: Number, norm_td: Number, norm_a: Number, floor: float) -> tuple[Number, Tensor | int]:
    """Return (1 / |T d|, 0), or (0, 1) where |d| <= floor |a|; on the device if the norms are there."""
    if isinstance(norm_d, float) and isinstance(norm_td, float):
        floored = norm_d <= floor * norm_a or norm_td == 0
        return (0.0, 1) if floored else (1 / norm_td, 0)
    on_device = torch.as_tensor(norm_td)
    below = torch.as_tensor(norm_d <= floor * norm_a) | (on_device == 0)
    return torch.where(below, torch.zeros_like(on_device), 1 / on_device), below.long()


def global_norm(xs: Tensors, ops: Ops) -> Tensor:
    """Return the l2 norm over all tensors jointly (0-dim); zero for an empty list."""
    return torch.linalg.vector_norm(torch.stack(ops.norms(xs))) if xs else torch.zeros(())


def global_dot(xs: Tensors, ys: Tensors) -> Tensor:
    """Return the inner product over all tensors jointly (0-dim), in float32 at least."""
    products = []
    for x, y in zip(xs, ys):
        if x.dtype in LOW_PRECISION:
            x, y = x.float(), y.float()
        products.append(torch.dot(x.flatten(), y.flatten()))
    return torch.stack(products).sum()
