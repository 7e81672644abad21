"""Every variant in loops of two processes: with DistributedDataParallel, and with parameters of `fully_shard`."""

import traceback

import pytest
import torch
import torch.nn.functional as F
from support.ranked import on_ranks
from support.runs import VARIANTS, compose_tiny
from torch import nn

from fsamlab.optim import SampleClosure, build_optimizer

pytestmark = pytest.mark.long

STEPS = 4
CHOOSES_PER_RANK = ("esam",)  # in a DDP loop each rank chooses among its own samples


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3)).double()


def batch(k):
    generator = torch.Generator().manual_seed(k)
    return torch.randn(8, 5, generator=generator).double(), torch.randint(0, 3, (8,), generator=generator)


def whole(x):
    return getattr(x, "full_tensor", lambda: x)().detach().clone()


def trained(config, model, called, part=slice(None)):
    """Train with a part of each batch; return the weights, or the error in one line.

    `called` is what the loop calls: the model, or DistributedDataParallel around it.
    """
    optimizer = build_optimizer(config.optimizer, model, 0, None, STEPS)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
        group["fused"] = False  # torch has no fused step of SGD for sharded parameters

    def closure(k):
        x, y = (tensor[part] for tensor in batch(k))
        if optimizer.needs_sample_losses:
            losses = lambda i: F.cross_entropy(called(x[i]), y[i], reduction="none")  # noqa: E731
            return SampleClosure(losses, optimizer.zero_grad)

        def run():
            optimizer.zero_grad()
            loss = F.cross_entropy(called(x), y)
            loss.backward()
            return loss

        return run

    for k in range(STEPS):
        optimizer.step(closure(k), closure(10 + k), closure(20 + k))
    return [whole(p) for p in model.parameters()]


def in_ddp(ranks, config):
    model = network()
    half = slice(4 * ranks.rank, 4 * ranks.rank + 4)
    return trained(config, model, nn.parallel.DistributedDataParallel(model), half)


def sharded(ranks, config):
    """Both ranks have the same batch."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (ranks.size,))
    model = network()
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return trained(config, model, model)


def scene(ranks, configs):
    found = {}
    for name, config in configs.items():
        for way in (in_ddp, sharded):
            try:
                found[name, way.__name__] = way(ranks, config)
            except Exception:
                found[name, way.__name__] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def configs():
    return {name: compose_tiny(f"optimizer={name}") for name in VARIANTS}


@pytest.fixture(scope="module")
def found(configs, tmp_path_factory):
    return on_ranks(2, __file__, "scene", configs, tmp_path_factory.mktemp("family"))


def compare(results, config):
    model = network()
    for result in results:
        assert not isinstance(result, str), result
    expected = trained(config, model, model)
    for result in results:
        for x, y in zip(result, expected):
            torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [v for v in VARIANTS if v not in CHOOSES_PER_RANK])
def test_ddp_trains_the_weights_of_one_process(found, configs, name):
    compare([of_rank[name, "in_ddp"] for of_rank in found], configs[name])


@pytest.mark.parametrize("name", CHOOSES_PER_RANK)
def test_ranks_that_choose_among_their_own_samples_stay_together(found, name):
    a, b = (of_rank[name, "in_ddp"] for of_rank in found)
    assert all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("name", VARIANTS)
def test_sharded_parameters_train_as_whole_ones(found, configs, name):
    compare([of_rank[name, "sharded"] for of_rank in found], configs[name])
