"""A CUDA device without a GPU: fake tensors have a device and no values, and what the host waits for is counted.

Needs a CUDA build of torch. There is no backward pass: gradients are put in by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
NO_FAKE_KERNEL = {
    op
    for name in ("_fused_sgd_", "_fused_adamw_", "_fused_adam_")
    for op in (getattr(aten, name).default, getattr(aten, name).tensor_lr)
}


def waits(reads: int = 0, copies: int = 0) -> dict[str, int]:
    """Return what a :class:`Waits` finds: numbers that the host reads, and copies that it waits for."""
    return {key: n for key, n in (("reads", reads), ("copies", copies)) if n}


class Waits(TorchDispatchMode):
    """Counts what the host waits for, and answers 1 where it reads.

    Args:
        everywhere: count the reads of tensors on the CPU as well.
    """

    def __init__(self, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere
        self.seen: Counter[str] = Counter()

    @property
    def found(self) -> dict[str, int]:
        """The number of reads and of copies, without zeros."""
        return dict(self.seen)

    @property
    def reads(self) -> int:
        """The number of reads."""
        return self.seen["reads"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the call, and make it where a fake kernel can."""
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            if self.everywhere or args[0].device.type == "cuda":
                self.seen["reads"] += 1
            if not isinstance(args[0], FakeTensor):
                return func(*args, **kwargs)
            return True if args[0].dtype == torch.bool else 1.0
        if func in NO_FAKE_KERNEL:
            return None
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            self._copy(args[0], torch.device(kwargs["device"]), kwargs.get("non_blocking", False))
        if func is aten.copy_.default:
            self._copy(args[1], args[0].device, args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return func(*args, **kwargs)

    def _copy(self, source: torch.Tensor, target: torch.device, non_blocking: bool) -> None:
        pinned = hasattr(source, "_pinned") and non_blocking
        if source.device.type != target.type and not pinned:
            self.seen["copies"] += 1


def _draw(p: torch.Tensor, generator: Any) -> torch.Tensor:
    return torch.empty_like(p).normal_()


def _pinned(x: torch.Tensor) -> torch.Tensor:
    copy = x.clone()
    copy._pinned = True  # type: ignore[attr-defined]
    return copy


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make tensors on "cuda" inside the context; generators of the device are generators of the CPU."""

    class OnCpu(torch.Generator):
        def __new__(cls, device: Any = "cpu") -> OnCpu:
            return super().__new__(cls)

    with ExitStack() as stack:
        for target, stub in {
            "torch.Generator": OnCpu,
            "fsamlab.axes.sharded.normal_like": _draw,
            "torch.Tensor.pin_memory": _pinned,
            "torch.cuda.get_rng_state": lambda device: None,
            "torch.cuda.set_rng_state": lambda state, device: None,
        }.items():
            stack.enter_context(mock.patch(target, stub))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(Waits())
        yield


def scaler_on_cuda() -> torch.amp.GradScaler:
    """Return a scaler that is not switched off for the want of a GPU."""
    with mock.patch("torch.cuda.is_available", return_value=True):
        return torch.amp.GradScaler("cuda")
