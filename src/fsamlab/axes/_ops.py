"""Arithmetic on lists of tensors: one multi-tensor call (`Foreach`) or a loop (`Loop`), same results.

A coefficient is a float, or a 0-dim tensor on the parameters' device where reading it would stall the
device. In-place functions end in an underscore. No list may be empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.axes.sharded import is_sharded, whole

Tensors = list[Tensor]
Number = float | Tensor

LOW_PRECISION = (torch.float16, torch.bfloat16)
SHORTEST = torch.finfo(torch.float32).tiny  # |T d|; 1 / |T d| of a shorter one overflows float32


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
        if any(x.is_complex() for x in xs):  # |w| is real, and cannot take x in
            return list(torch._foreach_mul(xs, ts))
        torch._foreach_mul_(ts, xs)
        return list(ts)

    @staticmethod
    def norms(xs: Tensors) -> Tensors:
        """Return the l2 norm of each tensor, in float32 at least."""
        low = [x for x in xs if x.dtype in LOW_PRECISION]
        if not low:
            return list(torch._foreach_norm(xs))
        norms = torch._foreach_norm(low, 2, dtype=torch.float32)
        if len(low) == len(xs):
            return list(norms)
        of_low, of_others = iter(norms), iter(torch._foreach_norm([x for x in xs if x.dtype not in LOW_PRECISION]))
        return [next(of_low if x.dtype in LOW_PRECISION else of_others) for x in xs]


class Loop:
    """One call per tensor: the plain form, and the only one for sharded tensors and for tensors on several devices."""

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
                x.add_(y * alpha.to(y.device))
            else:
                x.add_(y, alpha=alpha)

    @staticmethod
    def mul_(xs: Tensors, factor: Number) -> None:
        """x <- factor x."""
        for x in xs:
            x.mul_(factor.to(x.device) if isinstance(factor, Tensor) else factor)

    @staticmethod
    def scaled(xs: Tensors, factor: Number) -> Tensors:
        """Return new tensors factor x."""
        return [x * (factor.to(x.device) if isinstance(factor, Tensor) else factor) for x in xs]

    @staticmethod
    def weighted(xs: Tensors, ws: Tensors, eta: float) -> Tensors:
        """Return new tensors (|w| + eta) x."""
        ts = [w.abs().add_(eta) for w in ws]
        return [t * x if x.is_complex() else t.mul_(x) for x, t in zip(xs, ts)]

    @staticmethod
    def norms(xs: Tensors) -> Tensors:
        """Return the l2 norm of each tensor, in float32 at least."""
        return [torch.linalg.vector_norm(x, dtype=torch.float32 if x.dtype in LOW_PRECISION else None) for x in xs]


Ops = type[Foreach] | type[Loop]


def number(x: Tensor) -> Number:
    """Return a 0-dim CPU tensor as a float, another tensor unread: reading a GPU tensor makes the host wait."""
    return x.item() if x.device.type == "cpu" else x


def radius_over_norm(norm_d: Number, norm_td: Number, norm_a: Number, floor: float) -> tuple[Number, Tensor | int]:
    """Return (1 / |T d|, 0), or (0, 1) where |d| <= floor |a|; on the device if the norms are there."""
    if isinstance(norm_d, float) and isinstance(norm_td, float):
        floored = norm_d <= floor * norm_a or norm_td < SHORTEST
        return (0.0, 1) if floored else (1 / norm_td, 0)
    on_device = torch.as_tensor(norm_td)
    below = torch.as_tensor(norm_d <= floor * norm_a) | (on_device < SHORTEST)
    return torch.where(below, torch.zeros_like(on_device), 1 / on_device), below.long()


def ratio(x: Number, y: Number) -> Number:
    """Return x / y, and 0 for y = 0; on the device if one of the two is there."""
    x, y = (number(value) if isinstance(value, Tensor) else value for value in (x, y))
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        return x / y if y else 0.0
    divisor = torch.as_tensor(y)
    return torch.where(divisor == 0, torch.zeros_like(divisor), x / divisor)


def larger(x: Number, y: Number) -> Number:
    """Return the larger of x and y; on the device if x is there."""
    return x.clamp(min=y) if isinstance(x, Tensor) else max(x, y)


def magnitude(x: Number) -> Number:
    """Return |x|; on the device if x is there."""
    return x.abs() if isinstance(x, Tensor) else abs(x)


def largest(xs: list[Number]) -> Number:
    """Return the largest number; on the device if they are there."""
    tensors = [x for x in xs if isinstance(x, Tensor)]
    return torch.stack(tensors).max() if len(tensors) == len(xs) else max(xs)


def global_norm(xs: Tensors, ops: Ops) -> Tensor:
    """Return the l2 norm over all tensors jointly (0-dim, on the first one's device); zero for an empty list."""
    if not xs:
        return torch.zeros(())
    norms = ops.norms(xs)
    if ops is not Foreach:  # whose tensors are plain, and on one device
        norms = [whole(n).to(xs[0].device) for n in norms]
    return torch.linalg.vector_norm(torch.stack(norms))


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Return <x, y> of two tensors (0-dim, in float32 at least); of complex ones that of their real pairs.

    A complex gradient is dL/dRe + i dL/dIm, so that this product is the inner product of the real gradients.
    """
    if x.is_complex():
        x, y = torch.view_as_real(x.resolve_conj()), torch.view_as_real(y.resolve_conj())
    if x.dtype in LOW_PRECISION:
        x, y = x.float(), y.float()
    return whole((x * y).sum()) if is_sharded(x) else torch.dot(x.flatten(), y.flatten())


def global_dot(xs: Tensors, ys: Tensors) -> Tensor:
    """Return the inner product over all tensors jointly (0-dim, on the first one's device), in float32 at least."""
    return torch.stack([inner(x, y).to(xs[0].device) for x, y in zip(xs, ys)]).sum()
