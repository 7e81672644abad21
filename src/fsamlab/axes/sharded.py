"""Parameters of which a rank holds a part.

`fully_shard` (FSDP2) and tensor parallelism give DTensors: one global tensor, whose norms and inner products torch
brings together over the ranks. FSDP1 gives flat pieces that do not know of each other.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

PLAIN = (Tensor, Parameter)


def is_sharded(x: Tensor) -> bool:
    """Return whether x is a DTensor, or another tensor made of tensors: none of them has multi-tensor calls."""
    return type(x) not in PLAIN and is_traceable_wrapper_subclass(x)  # most are plain, and asking torch takes longer


def whole(x: Tensor) -> Tensor:
    """Return x as a plain tensor, the same on all ranks."""
    return x.full_tensor() if is_sharded(x) and hasattr(x, "full_tensor") else x


def local(x: Tensor) -> Tensor:
    """Return the part of x that this rank holds, in the same memory; x itself if x is a plain tensor."""
    return x.to_local() if is_sharded(x) and hasattr(x, "to_local") else x


def normal_like(p: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor of p's shape, type and sharding, drawn from N(0, 1) for the global tensor.

    Each rank draws all of a sharded tensor and keeps its own part, so the numbers do not depend on the sharding.
    """
    if not is_sharded(p):
        return torch.empty_like(p).normal_(generator=generator)
    from torch.distributed.tensor import DTensor, distribute_tensor  # loaded already where there is such a tensor

    if not isinstance(p, DTensor):
        raise TypeError(f"no random direction for parameters of type {type(p).__name__}")
    everything = torch.empty(p.shape, dtype=p.dtype, device=generator.device).normal_(generator=generator)
    return distribute_tensor(everything, p.device_mesh, p.placements, src_data_rank=None)


def refuse_flat(params: Iterable[Tensor]) -> None:
    """Refuse the parameters of FSDP1.

    Raises:
        TypeError: a parameter is FSDP1's.
    """
    if any(getattr(p, "_fsdp_flattened", False) for p in params):
        raise TypeError(
            "FullyShardedDataParallel (FSDP1) shows each rank its own shard alone, and the norm of the direction needs "
            "all of them: use torch.distributed.fsdp.fully_shard (FSDP2)"
        )
