"""Two processes train one model, in a loop of one's own and in a run: they give the weights of one process."""

import datetime
import sys
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from support.devices import device_named
from support.processes import FileFunction
from support.ranked import SMALL, far, on_ranks
from support.ranked import trained as run_trained
from support.runs import compose_tiny
from torch import nn

from fsamlab.optim import FSAM, SAM

SIZE, STEPS, SAMPLES = 2, 5, 16
CLOSE = 1e-12  # float64, five steps; two sums over half a batch against one sum over the batch
PLACES = {  # backend, and the device of each rank
    "gloo on the CPU": ("gloo", ("cpu", "cpu")),
    "gloo on one GPU": ("gloo", ("cuda:0", "cuda:0")),
    "nccl on two GPUs": ("nccl", ("cuda:0", "cuda:1")),
}
MARKS = {"gloo on the CPU": pytest.mark.long}


def network(device):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().to(device)


def trained(make, model, forward, part):
    """Return the weights on the CPU after STEPS steps on a part of each batch."""
    device = next(model.parameters()).device
    optimizer = make(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.3)
    for k in range(STEPS):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(SAMPLES, 6, generator=generator).double()[part].to(device)
        y = torch.randint(0, 3, (SAMPLES,), generator=generator)[part].to(device)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return [p.detach().cpu().clone() for p in model.parameters()]


def worker(rank, folder, backend, devices):
    device = torch.device(devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    dist.init_process_group(
        backend, f"file://{folder}/store", rank=rank, world_size=SIZE, timeout=datetime.timedelta(seconds=60)
    )
    half = SAMPLES // SIZE
    part = slice(rank * half, (rank + 1) * half)
    try:
        found = {}
        for make in (SAM, FSAM):
            model = network(device)
            ids = [device.index] if device.type == "cuda" else None
            found[make.__name__] = trained(make, model, nn.parallel.DistributedDataParallel(model, ids), part)
        torch.save(found, f"{folder}/{rank}.pt")
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        raise
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "where", [pytest.param(where, marks=MARKS.get(where, pytest.mark.gpu)) for where in PLACES], ids=str
)
def test_two_ranks_train_as_one_process(where, tmp_path):
    backend, devices = PLACES[where]
    for device in devices:
        device_named(device)
    mp.spawn(FileFunction(__file__, "worker"), (str(tmp_path), backend, devices), nprocs=SIZE)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(SIZE)]
    for make in (SAM, FSAM):
        model = network("cpu")
        expected = trained(make, model, model, slice(None))
        for a, b, c in zip(*(rank[make.__name__] for rank in ranks), expected, strict=True):
            assert torch.equal(a, b)
            assert float((a - c).abs().max()) < CLOSE


RUNS = {  # a GPU and the CPU round sums of a batch in another order; one rank's half batch makes yet another order
    "fsam": ("optimizer=fsam", "train.sync_batchnorm=true"),
    "sam_db": ("optimizer=sam_db", "train.sync_batchnorm=true"),
    "sam_full": ("optimizer=sam_full", "train.sync_batchnorm=true"),
}
RUN_CLOSE = 1e-9


def runs_on_ranks(ranks, configs):
    return {name: {k: v.cpu() for k, v in run_trained(config, ranks)[0].items()} for name, config in configs.items()}


@pytest.mark.parametrize(
    ("kind", "names"),
    [pytest.param("cuda", list(RUNS), marks=pytest.mark.gpu), pytest.param("cpu", ["fsam"], marks=pytest.mark.long)],
)
def test_two_ranks_make_the_run_of_one_process(kind, names, tmp_path):
    """With nccl each rank has a GPU of its own."""
    device_named("cuda:1" if kind == "cuda" else kind)
    configs = {name: compose_tiny(*SMALL, *RUNS[name]) for name in names}
    ranks = on_ranks(SIZE, __file__, "runs_on_ranks", configs, tmp_path, kind)
    for name in names:
        alone = compose_tiny(*SMALL, RUNS[name][0])
        expected = {k: v.cpu() for k, v in run_trained(alone, device=kind)[0].items()}
        assert max(far(rank[name], expected) for rank in ranks) < RUN_CLOSE
