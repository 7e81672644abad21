"""What torch sees: its build, GPUs with memory and driver, NCCL. A hanging driver hangs this process alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fsamlab.command.doctor.items import NOTE, SEEN, Item
from fsamlab.command.doctor.processes import Processes

GIB = 2**30


def devices() -> Iterator[Item]:
    """Yield the findings; one item for each GPU, with the topic `GPU n`."""
    build = torch.version.cuda
    yield Item("torch", f"{torch.__version__}, " + (f"built for CUDA {build}" if build else "built without CUDA"))
    if not torch.cuda.is_available():
        yield Item("GPU", "none that torch can use", NOTE, _why_none(build))
        return
    driver = _driver()
    for n in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(n)
        free, total = torch.cuda.mem_get_info(n)
        said = f"{facts.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, compute {facts.major}.{facts.minor}"
        yield Item(f"GPU {n}", f"{said}{driver}")
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        yield Item("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    else:
        yield Item("NCCL", "not in this build of torch", NOTE, "several GPUs need a build of torch with NCCL")
    cudnn = torch.backends.cudnn.version()
    yield Item("cuDNN", str(cudnn) if cudnn else "not there", SEEN)


def _why_none(build: str | None) -> str:
    """Return what to do where torch has no GPU."""
    if build is None:
        return "training runs on the CPU; for a GPU install a CUDA build of torch (pytorch.org, Get Started)"
    with Processes() as processes:
        answer = processes.ask(["nvidia-smi", "-L"])
    if answer.problem is None and "GPU" in answer.out:
        return f"nvidia-smi lists GPUs: look at CUDA_VISIBLE_DEVICES, or the driver is older than CUDA {build}"
    return "training runs on the CPU; on a machine with GPUs the NVIDIA driver is missing (nvidia-smi), or hidden"


def _driver() -> str:
    with Processes() as processes:
        answer = processes.ask(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    lines = answer.out.split()
    return f", driver {lines[0]}" if answer.problem is None and lines else ""
