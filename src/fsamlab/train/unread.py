"""Numbers that lie on the device until a row needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Number = float | Tensor
Unread = Mapping[str, Number]  # 0-dim tensors, vectors, or numbers that the host has


def read_together(*groups: Unread) -> list[dict[str, Any]]:
    """Return the groups with a float for each number and a list of floats for each vector.

    All tensors are read in one transfer for each device: each transfer makes the host wait.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for x in (x for group in groups for x in group.values() if isinstance(x, Tensor)):
        by_device.setdefault(x.device, []).append(x.detach().to(torch.float64).reshape(-1))
    read = {device: iter(torch.cat(tensors).cpu().tolist()) for device, tensors in by_device.items()}

    def value(x: Number) -> Any:
        if not isinstance(x, Tensor):
            return float(x)
        return [next(read[x.device]) for _ in range(x.numel())] if x.dim() else next(read[x.device])

    return [{key: value(x) for key, x in group.items()} for group in groups]
