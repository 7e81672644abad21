"""The network as torch.compile makes it, for the passes of a training: `train.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.config import ConfigError

BACKEND: Any = "inductor"  # tests use faster ones


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` with a compiled forward pass; weights, buffers and flags are those of `model` itself.

    Code is made when a pass first needs it: once for the pass at the weights, once for passes in which BatchNorm does
    not count, and once more for a pass without gradients (ESAM) or over a single sample.

    Raises:
        ConfigError: there is no C++ compiler, which the CPU needs.
    """
    if device.type == "cpu" and BACKEND == "inductor":
        _check_compiler()
    # The compiler keeps its code by the class of a module, and at most eight versions of it. A process that trains
    # several runs one after another would fill this store, and the later runs would not be compiled.
    torch._dynamo.reset()
    found: Callable[..., Any] = torch.compile(model, backend=BACKEND)
    assert isinstance(found, nn.Module)
    return found


def with_any_size(inputs: Tensor) -> Tensor:
    """Return a batch whose number of samples the compiler leaves open: the last batch of an epoch may be smaller."""
    torch._dynamo.maybe_mark_dynamic(inputs, 0)
    return inputs


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler  # half a second
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        allowed = "needs a C++ compiler on the CPU, and there is none; install g++, or name one in CXX"
        raise ConfigError("train.compile", True, allowed) from None
