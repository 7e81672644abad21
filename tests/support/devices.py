"""Tests that run on a GPU where there is one: each has a twin on the CPU, which runs the same lines."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import pytest
import torch

REQUIRE_GPU = "FSAMLAB_REQUIRE_GPU"  # set by hand on a machine whose GPU tests must not be skipped


def device_named(name: str) -> torch.device:
    """Return a device, or skip the test where the machine does not have it.

    Machines without a GPU are ordinary, so a skip is no failure: unlike Chromium and SLURM, which `.ci/run` installs
    and then requires, nobody can install a GPU.
    """
    device = torch.device(name)
    wanted = (device.index or 0) + 1 if device.type == "cuda" else 0
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted > there:
        reason = f"{name}: this machine has {there} CUDA devices"
        if os.environ.get(REQUIRE_GPU):
            pytest.fail(f"{REQUIRE_GPU} is set, and {reason}")
        pytest.skip(reason)
    return device


def on_each_device(
    names: Iterable[str], plain: Collection[str] = (), twins: Collection[str] | None = None
) -> pytest.MarkDecorator:
    """Give a test the parameters `name` and `device`.

    Args:
        names: all are tested on the GPU.
        plain: of these, those whose twin on the CPU is in the plain suite.
        twins: those with a twin on the CPU at all, the others of which are long; None means all.
    """
    names = list(names)
    on_cpu = names if twins is None else [name for name in names if name in {*plain, *twins}]
    assert {*plain, *(twins or ())} <= set(names)
    marks = {name: () if name in plain else pytest.mark.long for name in on_cpu}
    on_gpu = [pytest.param(name, "cuda", marks=pytest.mark.gpu, id=f"{name}-cuda") for name in names]
    cpu = [pytest.param(name, "cpu", marks=marks[name], id=f"{name}-cpu") for name in on_cpu]
    return pytest.mark.parametrize(("name", "device"), on_gpu + cpu, indirect=["device"])


@contextmanager
def deterministic() -> Iterator[None]:
    """Let torch use deterministic algorithms alone, and raise where an operation has none.

    The tests of this folder set CUBLAS_WORKSPACE_CONFIG (conftest.py), which cuBLAS reads when it starts.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """Let torch raise where the host waits for the GPU; on the CPU there is nothing to wait for."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def bytes_held(device: torch.device) -> int:
    """Return the bytes of all living tensors on a device; on the CPU, of those that Python knows."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch._C._cuda_clearCublasWorkspaces()  # of 8 to 64 MB, made with the first product and kept
        return torch.cuda.memory_allocated(device)
    # type(): isinstance() would ask objects for their __class__, and some answer with a warning. Fake tensors, which a
    # compiled training leaves behind, hold no memory.
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in gc.get_objects()
        if type(x) in (torch.Tensor, torch.nn.Parameter) and x.device == device and x.layout is torch.strided
    }
    return sum(storages.values())
