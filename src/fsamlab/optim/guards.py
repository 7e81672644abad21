"""Guards for the second forward and backward pass of a step, at the perturbed weights.

The second pass must not change the running statistics of batch norms or the random state. And it must not read copies
of the weights that torch made before the weights were perturbed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils import parametrize


@contextmanager
def frozen_batchnorm(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms (and of tracking instance norms) unchanged inside the context.

    Modules in training mode still normalise with the statistics of the batch; `running_mean`,
    `running_var` and `num_batches_tracked` keep their values, also where `momentum` is None. Modules in
    evaluation mode are not touched. The context may be nested and restores after exceptions. No copies
    are made and nothing waits for the device.
    """
    # A batch norm in training mode with tracking off passes no buffers to the kernel, so the kernel cannot write them.
    # An inner context finds no module that tracks, so only the outermost context switches tracking on again.
    tracking = [m for m in _norms(model) if m.training and m.track_running_stats]
    # An instance norm passes its buffers even with tracking off, so the buffers are taken away for the time.
    buffers = [(m, m.running_mean, m.running_var) for m in tracking if isinstance(m, _InstanceNorm)]

    def switch_on() -> None:
        for instance_norm, mean, var in buffers:
            instance_norm.running_mean, instance_norm.running_var = mean, var
        for norm in tracking:
            object.__setattr__(norm, "track_running_stats", True)

    # Ctrl-C may come at any line, also while modules are switched. Switching on again inside the try block lets
    # the except block finish what an interrupt cut short.
    try:
        for module in tracking:  # past nn.Module, which looks for parameters and submodules of that name
            object.__setattr__(module, "track_running_stats", False)
        for module, _, _ in buffers:
            module.running_mean = module.running_var = None
        yield
        switch_on()
    except BaseException:
        switch_on()
        raise


def _norms(model: nn.Module) -> list[_NormBase]:
    """Return the batch norms and instance norms among the modules of a model.

    They are looked for in each step, since a model may be changed between two; `modules()` takes several times as long.
    """
    found: dict[nn.Module, None] = {}
    coming = [model]
    while coming:
        module = coming.pop()
        if module not in found:
            found[module] = None
            coming += [child for child in module._modules.values() if child is not None]
    return [module for module in found if isinstance(module, _NormBase)]


@contextmanager
def seen_batchnorms() -> Iterator[list[str]]:
    """Yield a list that fills with the class names of norms whose running statistics a forward pass updates."""
    seen: list[str] = []

    def look(module: nn.Module, _: Any) -> None:
        if isinstance(module, _NormBase) and module.training and module.track_running_stats:
            seen.append(type(module).__name__)

    handle = register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def forget_weight_copies(model: nn.Module | None = None) -> None:
    """Drop torch's copies of weights that have just changed in place, so that the next forward pass reads the weights.

    These are the low-precision copies of an open `torch.autocast` block, the results of an open
    `torch.nn.utils.parametrize.cached()` block, and the gathered weights that `fully_shard` modules of `model`
    (given only where there are such modules) keep after a backward pass. No such copy follows a change in place.
    """
    torch.clear_autocast_cache()
    parametrize._cache.clear()
    if model is not None:
        from torch.distributed.fsdp import FSDPModule  # half a second, which only sharded models pay

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


RngState = tuple[Tensor, dict[torch.device, Tensor]]


def rng_state(devices: Iterable[torch.device]) -> RngState:
    """Return the default generators' state: the CPU's, and that of each of `devices` which is a CUDA device."""
    return torch.get_rng_state(), {d: torch.cuda.get_rng_state(d) for d in devices if d.type == "cuda"}


def _set_rng_state(state: RngState) -> None:
    torch.set_rng_state(state[0])
    for device, of_device in state[1].items():
        torch.cuda.set_rng_state(of_device, device)


@contextmanager
def replayed_rng(state: RngState) -> Iterator[None]:
    """Run the context from an earlier random state; afterwards the state is what it was on entry."""
    now = rng_state(state[1])
    try:
        _set_rng_state(state)
        yield
        _set_rng_state(now)
    except BaseException:
        _set_rng_state(now)
        raise
