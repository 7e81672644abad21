"""Copies from the host to the training device that the host does not wait for.

A copy from pinned memory is queued like a kernel. From other memory the host waits, since torch has to copy the data to
pinned memory first and has one such buffer only. On the CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

Tensors = list[Tensor]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return x on the device."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def packed_to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return tensors of bool or int64, all of one shape, on the device: one copy for all of them."""
    if device.type != "cuda" or not tensors:
        return {name: x.to(device) for name, x in tensors.items()}
    rows = to_device(torch.stack([x.long() for x in tensors.values()]), device)
    return {name: row.to(x.dtype) for (name, x), row in zip(tensors.items(), rows)}


def streamed_to_device(batches: Iterable[Tensors], device: torch.device) -> Iterator[Tensors]:
    """Yield batches of pinned tensors on the device, copied beside the work that is queued there already.

    The host is a step ahead of the device. The copy of a batch therefore starts while the device computes the step
    before.
    """
    if device.type != "cuda":
        yield from ([x.to(device) for x in batch] for batch in batches)
        return
    beside = torch.cuda.Stream(device)
    for batch in batches:
        here = torch.cuda.current_stream(device)
        with torch.cuda.stream(beside):
            copies = [x.to(device, non_blocking=True) for x in batch]
        here.wait_stream(beside)
        for x in copies:
            x.record_stream(here)  # the memory belongs to the other stream, which must not use it again too early
        yield copies
