"""train.cuda_graph without a GPU: the kernels of a step, recorded and repeated on the CPU, make the same steps.

The stand-in for CUDA graphs is tests/support/tape.py. tests/gpu/test_faster_steps.py has the graphs themselves.
"""

import dataclasses
from collections import defaultdict
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from support import axis_toys
from support.fake_cuda import Waits
from support.fake_trainer import fake_training, trainer_on_cuda
from support.marks import long_but
from support.masked import masked_steps
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny
from support.tape import Tape, Tapes

from fsamlab.config import ConfigError, TrainConfig
from fsamlab.optim import FSAM
from fsamlab.optim.places import Places
from fsamlab.train import graphed

EACH_STEP = {"ae_sam", "esam", "esam_swp", "sam_full", "sam_component", "sam_noise"}  # refused, with a reason
CAPTURABLE = [name for name in VARIANTS if name not in EACH_STEP]
STEPS = 20
SETTING = ("diagnostics=off", "train.epochs=5", "train.eval_every_epochs=9", "train.cuda_graph=true")


def trained(*overrides, captures=True, steps=STEPS, trainer=None, spoil=None, **changed):
    """Train with repeated steps, or with `captures=False` with the same steps run as usual; return trainer and rows."""
    warm_up = graphed.WARM_UP if captures else steps
    recorder = mock.patch.object(graphed, "RECORDER", Tapes)
    with masked_steps(), recorder, mock.patch.object(graphed, "WARM_UP", warm_up):
        trainer = trainer or build_trainer(compose_tiny(*SETTING, *overrides))
        trainer.cfg = trainer.stepper.cfg = trainer.passes.cfg = dataclasses.replace(trainer.cfg, **changed)
        observer, make, addresses = Rows(), trainer.stepper.make, defaultdict(set)

        def made(batch, step):
            if step == spoil:
                batch.inputs[0].fill_(torch.inf)
            result = make(batch, step)
            if trainer.stepper.graphed is not None and trainer.stepper.graphed.steps.replayed:
                for name, x in lasting(trainer):
                    addresses[name].add(x.data_ptr())
            return result

        trainer.last_step, trainer.stepper.make = steps, made
        trainer.fit(observer)
    for row in observer.rows:
        row.pop("time")
        row.pop("time/step_ms")
    moved = [name for name, found in addresses.items() if len(found) > 1]
    assert moved == []
    return trainer, observer.rows


def lasting(trainer):
    """Yield all tensors that a step reads or writes and that live longer than the step, with names."""
    yield from trainer.model.state_dict(keep_vars=True).items()
    yield from trainer.stepper.graphed.steps.places.tensors().items()
    yield "diverged", trainer.divergence.at
    if trainer.averaged is not None:
        yield from ((f"averaged {name}", x) for name, x in trainer.averaged.state_dict().items())


def state(trainer):
    found = {**trainer.state_dict()}
    for key in ("train_seconds", "eval_seconds", "diagnostics_seconds", "epoch_seconds", "last_row", "best"):
        found.pop(key)
    return found


def same(a, b, bound=0.0):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], bound) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, bound) for x, y in zip(a, b))
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=bound, equal_nan=True)
    return a == b or (a != a and b != b)  # nan


def compare(*overrides, at_least, **keywords):
    """Train in both ways; return the trainer whose steps were repeated."""
    usual, its_rows = trained(*overrides, captures=False, **keywords)
    assert usual.stepper.graphed.steps.replayed == 0
    repeated, rows = trained(*overrides, **keywords)
    assert repeated.stepper.graphed.steps.replayed >= at_least
    assert same(state(repeated), state(usual))
    assert same(rows, its_rows)
    return repeated


@pytest.mark.parametrize("name", long_but(["fsam"], CAPTURABLE))
def test_a_repeated_step_is_the_step(name):
    """To the bit, state and rows included, with every lasting tensor at its address."""
    compare(f"optimizer={name}", at_least=14 if name == "looksam" else 17)


SETTINGS = {  # what a step can differ in: repeated steps, at least
    "accumulated": (("train.accumulate_steps=3",), 17),
    "per micro-batch": (("train.accumulate_steps=2", "train.accumulate_mode=per_micro_batch"), 17),
    "clipped": (("train.max_grad_norm=0.5",), 17),
    "fp16": (("train.precision=fp16",), 17),
    "mixed, cut out": (("data.augment.mixup=0.2", "data.augment.cutout=2", "optimizer=sam_db"), 17),
    "dropout": (("model.import_path=support.trainers:network_with_dropout", "model.width=null"), 17),
    "radius by groups": (("optimizer.radius=cosine", "optimizer.perturb=[{name: '*bias', rho: 0.02}]"), 16),
    "radius by lr": (("optimizer.radius=lr", "optimizer.layer_decay=0.7"), 15),
    "every": (("optimizer.every=2",), 14),
    "start, stop": (("optimizer.start=0.2", "optimizer.stop=0.6"), 12),
    "scalars": (("diagnostics=light", "diagnostics.every_steps=2", "optimizer=le_sam"), 14),
    "full": (("optimizer=sam_noise", "optimizer.full_every_steps=4"), 12),
    "averaged": (("train.ema_decay=0.9", "train.channels_last=true"), 17),
    "adamw": (("optimizer.base=adamw", "optimizer.lr=0.002"), 17),
    "weighted adamw": (("optimizer=wsam", "optimizer.base=adamw", "optimizer.lr=0.002"), 17),
    "lambda": (("optimizer=unified_sam", "optimizer.mix=null", "optimizer.mix_schedule=1/t"), 17),
    "selected": (("optimizer=sam", "optimizer.descent=sharpest", "optimizer.gamma=0.5"), 17),
    "smaller last batch": (("data.batch_size=100",), 7),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SETTINGS)
def test_every_kind_of_step_is_repeated(name):
    overrides, at_least = SETTINGS[name]
    compare("optimizer=fsam", *overrides, at_least=at_least)


SCHEDULED = {  # a number of each step that the kernels have to get from the host
    "lr": ("optimizer=sgd",),
    "lr of AdamW": ("optimizer=fsam", "optimizer.base=adamw", "optimizer.lr=0.002"),
    "lr in the descent": ("optimizer=wsam",),
    "radius": ("optimizer=sam", "optimizer.radius=linear"),
    "radius by lr": ("optimizer=sam", "optimizer.radius=lr"),
    "lambda": ("optimizer=unified_sam", "optimizer.mix=null", "optimizer.mix_schedule=1/t"),
    "sigma": ("optimizer=le_sam",),
    "noise": ("optimizer=random",),
    "noise by filters": ("optimizer=m_rwp",),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SCHEDULED)
def test_numbers_of_the_host_reach_repeated_steps(name):
    """The steps are those of a training without the setting, to rounding."""
    plain, _ = trained(*SCHEDULED[name], cuda_graph=False)
    repeated, _ = trained(*SCHEDULED[name])
    assert repeated.stepper.graphed.steps.replayed == 17
    assert same(repeated.model.state_dict(), plain.model.state_dict(), 1e-5)


@pytest.mark.long
def test_a_repeated_step_that_is_not_finite_is_taken_back():
    repeated = compare("optimizer=fsam", "train.on_divergence=continue", at_least=17, spoil=12)
    assert repeated.optimizer.num_nonfinite == 1
    assert all(x.isfinite().all() for x in repeated.model.parameters())


@pytest.mark.long
def test_a_training_that_goes_on_captures_anew_and_ends_in_the_same_bits():
    whole, rows = trained("optimizer=fsam")
    first, _ = trained("optimizer=fsam", steps=9)
    second = build_trainer(compose_tiny(*SETTING, "optimizer=fsam"))
    second.load_state_dict(first.state_dict())
    second, later = trained("optimizer=fsam", trainer=second)
    assert second.stepper.graphed.steps.replayed == 8
    assert same(state(second), state(whole))
    assert later[-1]["test/loss"] == rows[-1]["test/loss"]


# ------------------------------------------------------------------------------------------ fake tensors on CUDA


class Strict(Waits):
    """Counts also the copies from pinned memory, whose source a graph would read again in each repetition."""

    def _copy(self, source, target, non_blocking):
        if source.device.type != target.type:
            self.seen["copies"] += 1


class Once:
    """A recorder that runs what it captures, and repeats nothing."""

    def __init__(self, device):
        self.found = []

    def warming_up(self):
        return nullcontext()

    def capture(self, work):
        with Strict() as counter:
            result = work()
        self.found.append(counter.found)
        return (lambda: None), result


@pytest.mark.parametrize("name", long_but(["fsam"], CAPTURABLE))
def test_on_cuda_the_captured_part_of_a_step_has_no_read_and_no_copy_from_the_host(name):
    """On fake tensors: all else (batches, numbers, noise) goes to the device before it. State stays where it is."""
    with fake_training(), mock.patch.object(graphed, "RECORDER", Once):
        trainer = trainer_on_cuda(name, "train.cuda_graph=true", "data.batch_size=4")
        trainer._observer, held = Rows(), []
        for epoch in range(3):
            for batch in trainer.data.train.batches(epoch):
                trainer._step(batch)
                held.append(dict(trainer.stepper.graphed.steps.places.tensors()))
        graphs = trainer.stepper.graphed
    assert graphs.recorder.found == [{}] * (2 if name == "looksam" else 1)
    assert graphs.steps.replayed >= 2
    settled = [found for found in held if found.keys() == held[-1].keys()][2:]
    assert len(settled) >= 3
    assert all(found[place] is x for found in settled for place, x in held[-1].items())


# ---------------------------------------------------------------------------------------------------- refusals

OWN = ("optimizer=sam", "optimizer.descent=support.axis_toys:Orthogonal", "optimizer.parameters={alpha: 0.5}")
REFUSED = [
    (("optimizer=ae_sam",), "when=adaptive decides by a value on the device whether there is a second pass"),
    (("optimizer=esam",), "ascent=some_tensors draws in each step, on the host, which tensors are perturbed"),
    (("optimizer=sam_full",), "ascent=full makes a pass over the full training set in each step"),
    (("optimizer=sam_noise",), "reference=full makes a pass over the full training set in each step"),
    (("optimizer=fsam", "optimizer.ema_init=zero_debiased"), "reference=ema counts its updates on the host"),
    (("optimizer=sam", "optimizer.same_rng=true"), "same_rng=true replays the random state inside a step"),
    (("optimizer=sam", "optimizer.base=torch.optim:RMSprop"), r"base=torch.optim:RMSprop may read from the GPU"),
    (
        ("optimizer=sam", "optimizer.descent=sharpest", "optimizer.gamma=0.5", "train.accumulate_steps=2"),
        "descent=sharpest counts on the host how many of the samples",
    ),
    (("train.compile=true",), "does not go with train.compile"),
    (("train.activation_checkpointing=true",), "does not go with train.activation_checkpointing"),
    (("train.device=cpu",), "needs a GPU, and train.device is cpu"),
    (("optimizer=sam", "train.perturbation=per_rank"), "is for one process alone"),
    (OWN, "descent=.* is a class of your own"),
]


@pytest.mark.parametrize(("overrides", "why"), REFUSED)
def test_what_cannot_be_captured_is_refused_before_any_work(overrides, why):
    with pytest.raises(ConfigError, match=rf"^train\.cuda_graph=True: .*{why}"):
        compose_tiny("train.cuda_graph=true", *overrides)


def test_a_choice_of_your_own_can_say_that_it_can_be_captured(monkeypatch):
    monkeypatch.setattr(axis_toys.Orthogonal, "uncapturable", None)
    compose_tiny("train.cuda_graph=true", *OWN)


@pytest.mark.long
def test_every_variant_is_captured_or_refused():
    refused = set()
    for name in VARIANTS:
        try:
            compose_tiny(f"optimizer={name}", "train.cuda_graph=true")
        except ConfigError:
            refused.add(name)
    assert refused == EACH_STEP


@pytest.mark.parametrize(("device", "ranks", "why"), [("cpu", 1, "needs a GPU"), ("cuda", 2, "this run has 2")])
def test_a_device_without_graphs_and_several_ranks_are_refused(device, ranks, why):
    cfg = TrainConfig(cuda_graph=True)
    with pytest.raises(ConfigError, match=rf"^train\.cuda_graph=True: .*{why}"):
        graphed.check_graphs(cfg, torch.device(device), ranks)
    graphed.check_graphs(cfg, torch.device("cuda"), 1)
    graphed.check_graphs(TrainConfig(), torch.device(device), ranks)


# ---------------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (lambda x: x.sum().item(), "the host reads"),
        (lambda x: bool(x[0] > 0), "the host reads"),
        (lambda x: x[x > 0], "decide a shape"),
        (lambda x: x.normal_(generator=torch.Generator().manual_seed(1)), "a generator"),
    ],
)
def test_the_stand_in_refuses_what_a_graph_cannot_have(work, error):
    with pytest.raises(RuntimeError, match=error), Tape():
        work(torch.ones(3))


def test_the_stand_in_repeats_kernels_alone():
    """A number that Python gives stays, a tensor is read anew; nothing has run while it was recorded."""
    x, y, calls = torch.ones(3), torch.zeros(3), []

    def work():
        calls.append(0)
        return y.add_(x * len(calls) + torch.rand(3)).sum()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        replay, total = Tapes(None).capture(work)
        assert float(y.sum()) == 0
        first = torch.rand(3)
        torch.manual_seed(0)
        x.fill_(2)
        replay()
    assert calls == [0]
    assert torch.equal(y, 2 + first)
    assert torch.equal(total, y.sum())


def of_choices(optimizer, key, value):
    for p in optimizer.parameters():
        optimizer._own[p][key] = value


def test_a_state_settles_at_its_addresses():
    """New tensors are copied into the old ones, shared ones stay shared; what changes its form is named."""
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = FSAM(torch.optim.SGD(params, lr=0.1))
    places = Places(optimizer)
    assert {place[2] for place in places.settle()} == {"num_floored", "_num_nonfinite"}
    assert places.settle() == []
    of_choices(optimizer, "ema_steps", first := torch.tensor(1))
    assert [place[1:] for place in places.settle()] == [(0, "ema_steps"), (1, "ema_steps")]
    of_choices(optimizer, "ema_steps", torch.tensor(5))
    assert places.settle() == []
    assert all(optimizer._own[p]["ema_steps"] is first for p in params)
    assert int(first) == 5
    for number, p in enumerate(params):
        optimizer._own[p]["ema_steps"] = torch.tensor(number)
    assert len(places.settle()) == 2  # one tensor cannot hold both
    assert [int(optimizer._own[p]["ema_steps"]) for p in params] == [0, 1]
    a, b = (optimizer._own[p]["ema_steps"] for p in params)
    optimizer._own[params[0]]["ema_steps"], optimizer._own[params[1]]["ema_steps"] = b, a
    assert places.settle() == []
    assert [int(optimizer._own[p]["ema_steps"]) for p in params] == [1, 0]
    optimizer._own[params[0]]["ema_steps"] = 3
    assert [place[2] for place in places.settle()] == ["ema_steps"]
    optimizer._own[params[0]]["ema_steps"] = 4
    assert [place[2] for place in places.settle()] == ["ema_steps"]
    del optimizer._own[params[0]]["ema_steps"]
    assert [place[2] for place in places.settle()] == ["ema_steps"]


def test_a_state_that_never_settles_is_refused():
    """Here a number in the state of the base, which its step counts on the host."""

    def counted(optimizer, *_):
        entries = optimizer.base.state[next(optimizer.parameters())]
        entries["calls"] = entries.get("calls", 0) + 1

    trainer = build_trainer(compose_tiny(*SETTING, "optimizer=sgd"))
    trainer.optimizer.register_step_post_hook(counted)
    with mock.patch.object(graphed, "SETTLED", 5), pytest.raises(ConfigError, match=r"calls .* changes its form"):
        trained(trainer=trainer)
    assert trainer.step == 5
