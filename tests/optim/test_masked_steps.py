"""Steps that masks take back, as on a GPU, against steps that the host leaves out; on the CPU, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.marks import long_but
from support.runs import VARIANTS, compose_tiny
from support.steps import batch
from torch import nn

from fsamlab.axes.reference import Ema
from fsamlab.optim import FSAM, SAM, SampleClosure, SharpnessAware, build_optimizer

PERTURBING = [name for name in VARIANTS if name not in ("sgd", "sgd_2x", "adamw")]
SHOWN = [("fsam", "sgd"), ("fsam", "unfused"), ("looksam", "unfused"), ("ae_sam", "adamw"), ("wsam", "sgd")]
ALL = [(name, base) for name in PERTURBING for base in ("sgd", "adamw", "unfused")]
STEPS = 8
FULL, OTHER = 999, 1000


class Batches:
    """The closures of one model; in pass number `bad` of a step the gradient of one tensor is not finite."""

    def __init__(self, model, optimizer, scaler=None):
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.bad = self.passes = -1

    def closure(self, k):
        x, y = batch(k, 100 if k == FULL else 16)

        def losses(samples):
            return F.cross_entropy(self.model(x.double()[samples]), y[samples], reduction="none")

        made = SampleClosure(losses, self.zero, self.scaler.scale if self.scaler is not None else None)
        return Counted(made, self)

    def zero(self):
        self.optimizer.zero_grad()

    def after(self):
        self.passes += 1
        if self.passes == self.bad:
            next(p for p in self.optimizer.parameters() if p.grad is not None).grad.view(-1)[0] = torch.inf

    def step(self, k, bad=-1):
        self.bad, self.passes = bad, -1
        further = self.closure(
            FULL if self.optimizer.needs_reference or self.optimizer.needs_ascent == "full" else OTHER + k
        )
        return self.optimizer.step(self.closure(k), further, further)


class Counted:
    def __init__(self, closure, batches):
        self.closure, self.batches = closure, batches

    def __call__(self):
        loss = self.closure()
        self.batches.after()
        return loss

    def losses(self):
        return self.closure.losses()

    def on(self, samples):
        loss = self.closure.on(samples)
        self.batches.after()
        return loss


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).double()


def pair(make, unfused=False):
    """Return the closures of two equal trainings: by the host, and by masks."""
    found = []
    for masks in (False, True):
        model = network()
        optimizer = make(model)
        optimizer.masks_on_cpu = masks
        if unfused:
            optimizer.base._step_supports_amp_scaling = False
            for group in optimizer.param_groups:
                group["fused"] = None
        found.append(Batches(model, optimizer))
    return found


def state(b):
    """Return all that a step that is left out must not touch."""
    found = copy.deepcopy({**b.optimizer.state_dict(), "model": b.model.state_dict()})
    for group in found["param_groups"]:
        own = group["sharpness_aware"]
        for key in ("num_steps", "num_nonfinite", "num_floored", "full_step", "has_entries"):
            own.pop(key, None)
    for entries in found["state"].values():
        entries.pop("full_gradient", None)  # made by a pass of its own before the step
    found["state"] = {i: entries for i, entries in found["state"].items() if entries}
    return found


def equal(a, b, bound=0.0):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k], bound) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y, bound) for x, y in zip(a, b))
    if isinstance(a, torch.Tensor) and a.is_floating_point():
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a - b).abs() <= bound * (1 + a.abs())).all())
    if isinstance(a, float):
        return a == b or abs(a - b) <= bound * (1 + abs(a))
    return type(a) is type(b) and bool(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)


def unread(monkeypatch):
    """Have norms and their ratios stay tensors, as on a GPU."""
    for place in ("axes._ops", "optim.two_phase", "optim.length"):
        monkeypatch.setattr(f"fsamlab.{place}.number", lambda x: x)


def compare(host, masked, bad_pass, bad_steps=(0, 3, 5)):
    """Train both; the same verdicts, and states equal to rounding; what is left out is left out to the bit."""
    for k in range(STEPS):
        looks = host.optimizer.perturbs or host.optimizer.choices.acts_between(k)
        bad = bad_pass if k in bad_steps and looks else -1  # a plain step is the base's own business
        before, left_out = state(masked), host.optimizer.num_nonfinite
        with torch.random.fork_rng():
            host.step(k, bad)
        masked.step(k, bad)
        assert masked.optimizer.num_nonfinite == host.optimizer.num_nonfinite
        assert int(masked.optimizer.num_floored) == int(host.optimizer.num_floored)
        if host.optimizer.num_nonfinite > left_out:
            assert equal(state(masked), before), k
        assert equal(state(masked), state(host), 1e-12), k
    return host.optimizer.num_nonfinite


@pytest.mark.parametrize(("name", "base"), long_but(SHOWN, ALL))
def test_masks_do_what_the_host_does(name, base, monkeypatch):
    """With a gradient that is not finite in each pass in turn, also in the first step, where states begin."""
    unread(monkeypatch)
    adamw = ("optimizer.base=adamw", "optimizer.lr=0.01") if base == "adamw" else ()
    cfg = compose_tiny(f"optimizer={name}", *adamw).optimizer
    left_out = 0
    for bad_pass in range(2):
        made = pair(lambda model: build_optimizer(cfg, model, seed=3, total_steps=STEPS), base == "unfused")
        left_out += compare(*made, bad_pass)
    assert left_out >= 2


SETTINGS = {
    "clipped": {"max_grad_norm": 0.1},
    "floored": {"floor": 0.9, "component": "subtract", "reference": "ema"},
    "paper": {"component": "subtract", "reference": "ema", "order": "paper", "sigma": 0.5},
    "debiased": {"component": "subtract", "reference": "ema", "ema_init": "zero_debiased"},
    "zero": {"component": "project_out", "reference": "ema", "ema_init": "zero"},
    "loop": {"component": "subtract", "reference": "ema", "foreach": False},
    "full": {"ascent": "full", "full_every_steps": 3},
    "every": {"component": "subtract", "reference": "ema", "every": 2},
    "adaptive": {"metric": "adaptive", "component": "reference", "reference": "ema"},
    "fisher": {"metric": "fisher", "component": "subtract", "reference": "ema"},
    "budget": {"radius": "loss_budget", "budget_warmup": 0.0, "budget_decay": 1.0},
}


@pytest.mark.parametrize("name", long_but(["paper", "full", "every"], SETTINGS))
def test_settings_under_masks(name, monkeypatch):
    unread(monkeypatch)

    def make(model):
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return SharpnessAware(base, rho=0.1, model=model, **SETTINGS[name])

    assert sum(compare(*pair(make), bad_pass) for bad_pass in range(2)) > 0


@pytest.mark.parametrize("make", [SAM, FSAM])
@pytest.mark.parametrize("bad_pass", [0, 3, 4])
def test_micro_batches_under_masks(make, bad_pass, monkeypatch):
    """A micro-batch that is not finite prevents the base's step, and no update of the EMA by the others."""
    unread(monkeypatch)
    host, masked = pair(lambda model: make(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 0.1, model=model))
    for k in range(4):
        for b in (host, masked):
            b.bad, b.passes = bad_pass if k in (0, 2) else -1, -1
            b.optimizer.step_micro([b.closure(10 * k + i) for i in range(3)])
        assert equal(state(masked), state(host), 1e-12), k
    assert masked.optimizer.num_nonfinite == host.optimizer.num_nonfinite == 2


@pytest.mark.parametrize("bad_pass", [0, 1])
def test_a_grad_scaler_under_masks(bad_pass, monkeypatch):
    """The scale goes down where a step is left out; the EMA never sees a scaled gradient."""
    unread(monkeypatch)
    found = []
    for masks in (False, True):
        model, scaler = network(), torch.amp.GradScaler("cpu", init_scale=64.0)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        optimizer = FSAM(base, 0.1, model=model, grad_scaler=scaler)
        optimizer.masks_on_cpu = masks
        b = Batches(model, optimizer, scaler)
        for k in range(4):
            b.step(k, bad_pass if k in (0, 2) else -1)
            scaler.update()
        found.append((state(b), scaler.get_scale(), optimizer.num_nonfinite))
    (of_host, *counts), (of_masks, *theirs) = found
    assert counts == theirs == [16.0, 2]
    assert equal(of_masks, of_host, 1e-12)


def test_a_masked_training_is_saved_in_plain_numbers(monkeypatch):
    """A state_dict has the numbers that one from the CPU has, and a training goes on from it."""
    unread(monkeypatch)
    host, masked = pair(lambda model: FSAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 0.1, model=model))
    for k in range(3):
        host.step(k)
        masked.step(k)
    saved = masked.optimizer.state_dict()
    assert {type(entries["ema_steps"]) for entries in saved["state"].values()} == {int}
    assert saved["param_groups"][0]["sharpness_aware"]["num_nonfinite"] == 0
    host.optimizer.load_state_dict(copy.deepcopy(saved))
    host.model.load_state_dict(masked.model.state_dict())
    host.step(3)
    masked.step(3)
    assert equal(state(masked), state(host), 1e-12)


def test_a_base_from_elsewhere_is_left_out_by_the_host(monkeypatch):
    """Nobody knows what else it keeps."""
    unread(monkeypatch)

    class Counts(torch.optim.SGD):
        calls = 0

        def step(self, closure=None):
            self.calls += 1
            return super().step(closure)

    host, masked = pair(lambda model: SAM(Counts(model.parameters(), lr=0.1), 0.1, model=model))
    assert compare(host, masked, 1) == 3
    assert masked.optimizer.base.calls == host.optimizer.base.calls == STEPS - 3


def test_the_second_pass_of_a_step_that_is_not_finite_runs_at_w(monkeypatch):
    """Batch norms, and all else that a pass writes, must not see weights that are not finite."""
    unread(monkeypatch)
    _, masked = pair(lambda model: SAM(torch.optim.SGD(model.parameters(), lr=0.1), 0.1, model=model))
    before, seen = copy.deepcopy(masked.model.state_dict()), []
    closure = masked.closure(0)

    def watched():
        seen.append(copy.deepcopy(masked.model.state_dict()))
        return closure()

    masked.bad = 0
    masked.optimizer.step(watched)
    assert len(seen) == 2
    assert equal(seen[1], before)


def test_a_choice_that_counts_in_place_is_refused(monkeypatch):
    """Parameters share the tensor that stands for a number."""
    unread(monkeypatch)

    class CountsInPlace(Ema):
        name = "counts_in_place"
        state_keys = ("ema", "ema_steps", "count")

        def update(self, part, state, ops):
            super().update(part, state, ops)
            for p in part.params:
                state[p].setdefault("count", 0)
                state[p]["count"] += 1

    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = SharpnessAware(base, component="subtract", reference=CountsInPlace, model=model)
    optimizer.masks_on_cpu = True
    b = Batches(model, optimizer)
    b.step(0)
    b.step(1)
    with pytest.raises(RuntimeError, match=r"writes in place to the number count .* \+ 1, not \+="):
        b.step(2)
