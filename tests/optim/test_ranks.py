"""Two processes with torch.distributed: one verdict for both, sharded parameters, states of their own."""

import contextlib
import datetime
import math
import sys
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from support.processes import FileFunction
from torch import nn

from fsamlab.optim import FASAM, FSAM, SAM, RandomSAM, SAMComponent, SAMNoise, SharpnessAware

pytestmark = pytest.mark.long

SIZE = 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def base(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def batch(k):
    generator = torch.Generator().manual_seed(k)
    return torch.randn(8, 5, generator=generator).double(), torch.randint(0, 3, (8,), generator=generator)


def weights(model):
    return [getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for p in model.parameters()]


def closure_of(model, optimizer, k, around=contextlib.nullcontext, spoil=lambda call, loss: loss):
    """Return a closure on batch k that runs under around(call), and whose loss spoil() may change."""
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        with around() if len(calls) % 2 else contextlib.nullcontext():
            x, y = batch(k)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        return spoil(len(calls), loss)

    return closure


# each returns something small that torch.save takes; run in both processes


def infinite_loss(rank):
    """An infinite perturbed loss with finite gradients, on rank 1 in step 1."""
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = FSAM(base(model), rho=0.3)
    for k in range(4):
        spoil = lambda call, loss, k=k: loss * (math.inf if (rank, k, call) == (1, 1, 2) else 1)  # noqa: E731
        optimizer.step(closure_of(model, optimizer, 10 * k + rank, spoil=spoil))
    return weights(model), optimizer.num_nonfinite, "rank" in optimizer.own_state()


def infinite_gradient(rank):
    """The first pass under no_sync, its gradient not finite on rank 1 in step 1: who goes on alone, hangs."""
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = FSAM(base(model), rho=0.3)
    for k in range(4):

        def spoil(call, loss, k=k):
            if (rank, k, call) == (1, 1, 1):
                next(model.parameters()).grad[0, 0] = math.inf
            return loss

        optimizer.step(closure_of(model, optimizer, 10 * k + rank, model.no_sync, spoil))
    own = optimizer.state_dict()
    ema = [optimizer.state[p]["ema"].clone() for p in model.parameters()]
    states = [None] * SIZE
    dist.all_gather_object(states, own)
    messages = []
    for state in (own, states[0]):
        try:
            FSAM(base(model), rho=0.3).load_state_dict(state)
            messages.append("")
        except ValueError as e:
            messages.append(str(e))
    return weights(model), optimizer.num_nonfinite, ema, messages


def own_gradients_without_average(rank):
    """SAM under no_sync: ranks perturb by their own gradients, and have nothing of their own to save."""
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = SAM(base(model), rho=0.3)
    for k in range(2):
        optimizer.step(closure_of(model, optimizer, 10 * k + rank, model.no_sync))
    return weights(model), "rank" in optimizer.own_state()


def one_micro_batch(rank):
    """Micro-batches that are averaged once: the last one's loss is not finite on rank 0."""
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = SAM(base(model), rho=0.3)
    for k in range(3):
        spoil = lambda call, loss, k=k: loss * (math.inf if (rank, k, call) == (0, 1, 2) else 1)  # noqa: E731
        closures = [closure_of(model, optimizer, 10 * k + rank + j, spoil=spoil) for j in (0, 5)]
        optimizer.step_micro(closures)
    return weights(model), optimizer.num_nonfinite


def one_scale(rank):
    """An overflow on rank 1 alone lowers the scale of both."""
    model = nn.parallel.DistributedDataParallel(network())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = SAM(base(model), rho=0.3, grad_scaler=scaler)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        with model.no_sync() if len(calls) % 2 else contextlib.nullcontext():
            x, y = batch(len(calls) + rank)
            loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
        if (rank, len(calls)) == (1, 1):
            next(model.parameters()).grad[0, 0] = math.inf
        return loss

    optimizer.step(closure)
    scaler.update()
    calls.append(1)
    optimizer.step(closure)
    scaler.update()
    return weights(model), optimizer.num_nonfinite, scaler.get_scale()


def alone(rank):
    """Ranks that train on their own, each as many steps as it likes."""
    groups = [dist.new_group([r]) for r in range(SIZE)]
    model = network()
    optimizer = SAM(base(model), rho=0.3, process_group=groups[rank])
    for k in range(1 + 2 * rank):
        optimizer.step(closure_of(model, optimizer, k))
    return optimizer.num_steps


MAKERS = {
    "sam": (SAM, {}),
    "fsam": (FSAM, {}),
    "fasam": (FASAM, {"adaptive_form": "all"}),
    "sam_noise": (SAMNoise, {}),
    "sam_component": (SAMComponent, {}),
    "random": (RandomSAM, {}),
}


def trained(model, name, keep_gathered=False):
    make, keywords = MAKERS[name]
    optimizer = make(base(model), rho=0.3, model=model, **keywords)
    optimizer.record_scalars = True
    scalars = []
    if keep_gathered:
        model.set_reshard_after_backward(False)
    for k in range(3):
        optimizer.step(closure_of(model, optimizer, k), None, closure_of(model, optimizer, 99))
        scalars.append({key: float(v) for key, v in optimizer.scalars.items()})
    return weights(model), scalars


def sharded(rank):
    """fully_shard, in all variants; both ranks have the same batch, so a single process is the yardstick."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (SIZE,))
    found = {}
    for keep_gathered in (False, True):
        for name in MAKERS if not keep_gathered else ("sam", "fsam"):
            model = network()
            fully_shard(model[0], mesh=mesh)
            fully_shard(model, mesh=mesh)
            found[name, keep_gathered] = trained(model, name, keep_gathered)
    return found


def flat(rank):
    """FSDP1."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    messages = []
    for use_orig_params in (False, True):
        model = FullyShardedDataParallel(network(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
        try:
            SAM(base(model))
            messages.append("")
        except TypeError as e:
            messages.append(str(e))
    return messages


def late_decision(rank):
    """A decision by the clean gradient: in the last step rank 1 alone would perturb, which hangs the other."""
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = SharpnessAware(base(model), rho=0.3, when="adaptive", total_steps=9)
    for k in range(6):
        if k == 5:
            optimizer.choices.when.lambda_1 = optimizer.choices.when.lambda_2 = 1e3 if rank == 0 else -1e3
        optimizer.step(closure_of(model, optimizer, 10 * k + rank))
    return weights(model), optimizer.choices.when.num_perturbed, optimizer.choices.logged(6)


SCENES = (
    late_decision,
    infinite_loss,
    infinite_gradient,
    own_gradients_without_average,
    one_micro_batch,
    one_scale,
    alone,
    sharded,
    flat,
)


def process(rank, folder, scenes):
    """Run every scene; one that fails leaves its traceback."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=SIZE, timeout=datetime.timedelta(seconds=60))
    for scene in SCENES:
        if scene.__name__ not in scenes:
            continue
        try:
            result = scene(rank)
        except Exception:
            result = traceback.format_exc()
            print(result, file=sys.stderr)
        torch.save(result, f"{folder}/{scene.__name__}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return for each scene what the two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(FileFunction(__file__, "process"), args=(str(folder), [scene.__name__ for scene in SCENES]), nprocs=SIZE)
    found = {}
    for scene in SCENES:
        found[scene.__name__] = [torch.load(folder / f"{scene.__name__}-{rank}.pt") for rank in range(SIZE)]
        for result in found[scene.__name__]:
            assert not isinstance(result, str), result
    return found


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


def test_a_late_decision_is_that_of_all_ranks(results):
    (a, perturbed_a, logged), (b, perturbed_b, _) = results["late_decision"]
    assert same(a, b)
    assert perturbed_a == perturbed_b > 0
    assert logged == {"perturbation/perturbed_share": perturbed_a / 6}


def test_an_infinite_loss_on_one_rank_skips_the_step_on_both(results):
    (a, skipped_a, own_a), (b, skipped_b, own_b) = results["infinite_loss"]
    assert same(a, b)
    assert skipped_a == skipped_b == 1
    assert not own_a  # averaged gradients: one EMA, which any rank may load
    assert not own_b


def test_an_infinite_gradient_on_one_rank_does_not_hang_the_other(results):
    (a, skipped_a, ema_a, _), (b, skipped_b, ema_b, _) = results["infinite_gradient"]
    assert same(a, b)
    assert skipped_a == skipped_b == 1
    assert not same(ema_a, ema_b)


def test_each_rank_loads_its_own_average(results):
    (_, _, _, [own_a, first_a]), (_, _, _, [own_b, first_b]) = results["infinite_gradient"]
    assert own_a == first_a == own_b == ""
    assert "state of rank 0 of 2" in first_b
    assert "this is rank 1 of 2" in first_b


def test_without_an_average_any_rank_loads_the_state(results):
    (a, own_a), (b, own_b) = results["own_gradients_without_average"]
    assert same(a, b)
    assert own_a is own_b is False


def test_micro_batches(results):
    (a, skipped_a), (b, skipped_b) = results["one_micro_batch"]
    assert same(a, b)
    assert skipped_a == skipped_b == 1


def test_one_scale_for_all_ranks(results):
    (a, skipped_a, scale_a), (b, skipped_b, scale_b) = results["one_scale"]
    assert same(a, b)
    assert skipped_a == skipped_b == 1
    assert scale_a == scale_b == 2.0**9


def test_ranks_that_train_on_their_own(results):
    assert results["alone"] == [1, 3]


def test_sharded_parameters_train_as_whole_ones(results):
    for found in results["sharded"]:
        for (name, keep_gathered), (sharded_weights, sharded_scalars) in found.items():
            whole_weights, whole_scalars = trained(network(), name)
            for x, y in zip(sharded_weights, whole_weights):
                torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12, msg=f"{name}, {keep_gathered}")
            for x, y in zip(sharded_scalars, whole_scalars):
                assert x == pytest.approx(y, rel=1e-9), name


def test_fsdp1_is_refused(results):
    for messages in results["flat"]:
        assert len(messages) == 2
        assert all("fully_shard" in message for message in messages)
