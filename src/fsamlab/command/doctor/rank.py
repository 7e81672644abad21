"""The training of one of two ranks: FSAM in DistributedDataParallel, the way of docs/loops.md."""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fsamlab.optim import FSAM

SIZE, STEPS, SAMPLES = 2, 3, 16
SECONDS = 60.0  # for a message of the other process
CLOSE = 1e-10  # float64; two sums of half a batch against one sum


def train(backend: str, rank: int, port: int) -> list[Tensor]:
    """Train on this rank's half of each batch; return the weights, on the CPU."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    dist.init_process_group(backend, rank=rank, world_size=SIZE, timeout=datetime.timedelta(seconds=SECONDS))
    try:
        model = network(device)
        parallel = DistributedDataParallel(model, device_ids=[rank] if backend == "nccl" else None)
        half = SAMPLES // SIZE
        return trained(parallel, model, slice(rank * half, (rank + 1) * half))
    finally:
        dist.destroy_process_group()


def apart(found: list[Tensor]) -> float:
    """Return the largest difference between weights and those that one process trains on whole batches."""
    model = network(torch.device("cpu"))
    alone = trained(model, model, slice(None))
    return max(float((a - b).abs().max()) for a, b in zip(found, alone, strict=True))


def network(device: torch.device) -> nn.Module:
    """Return a small network in float64, the same on each rank."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().to(device)


def trained(forward: nn.Module, model: nn.Module, part: slice) -> list[Tensor]:
    """Take STEPS steps on a part of each batch; return the weights of `model`, on the CPU."""
    device = next(model.parameters()).device
    optimizer = FSAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.1)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(SAMPLES, 6, generator=generator).double()[part].to(device)
        labels = torch.randint(0, 3, (SAMPLES,), generator=generator)[part].to(device)

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(forward(inputs), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
    return [p.detach().cpu().clone() for p in model.parameters()]
