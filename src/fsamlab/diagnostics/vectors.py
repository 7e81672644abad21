"""Flat vectors of all parameters, with inner products summed in float64.

A float32 sum over millions of float32 entries has an error of 1e-4, as large as the differences that sharpness consists
of. Every inner product here converts pieces of its operands to float64 first, without a float64 copy of a whole vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PIECE = 1 << 18  # number of entries converted at a time: 2 MiB, which fit into the cache


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Return the entries of all tensors as one vector (P,)."""
    return torch.cat([t.reshape(-1) for t in tensors])


def views(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views into `vector` (P,) with the shapes of `like`."""
    pieces = vector.split([t.numel() for t in like])
    return [piece.view(t.shape) for piece, t in zip(pieces, like)]


def dot(x: Tensor, y: Tensor) -> float:
    """Return <x, y> of two vectors (P,)."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for a, b in zip(x.split(PIECE), y.split(PIECE)):
        total += torch.dot(a.double(), b.double())
    return float(total)


def dots(rows: Tensor, y: Tensor) -> Tensor:
    """Return the inner products of the rows of a matrix (k, P) with y (P,): float64 (k,)."""
    total = torch.zeros(len(rows), dtype=torch.float64, device=y.device)
    for a, b in zip(rows.split(PIECE // max(1, len(rows)) + 1, dim=1), y.split(PIECE // max(1, len(rows)) + 1)):
        total += a.to(y.device).double() @ b.double()
    return total


def norm(x: Tensor) -> float:
    """Return the l2 norm of a vector (P,)."""
    return math.sqrt(dot(x, x))


def cosine(x: Tensor, y: Tensor) -> float:
    """Return the cosine of the angle between two vectors (P,); NaN if a vector is zero."""
    product = norm(x) * norm(y)
    return dot(x, y) / product if product else math.nan


def gaussian(like: Tensor, seed: int) -> Tensor:
    """Draw a vector from N(0, I). A seed gives the same vector on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def rademacher(like: Tensor, seed: int) -> Tensor:
    """Draw a vector of independent random signs. A seed gives the same vector on every device."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return signs.mul_(2).sub_(1).to(device=like.device, dtype=like.dtype)
