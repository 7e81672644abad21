"""On CUDA the host waits for the device where docs/devices.md says so, and nowhere else; shown without a GPU.

Fake tensors have a device and no values, so gradients are put in by hand, and what the host reads is answered with 1.
"""

import pytest
import torch
from support.fake_cuda import Waits, fake_cuda, scaler_on_cuda, waits
from support.runs import VARIANTS, compose_tiny
from torch import nn

from fsamlab.optim import FASAM, FSAM, SAM, Pass, SAMNoise, SharpnessAware, build_optimizer

READS = {"ae_sam": 1}  # a step; all other variants none. docs/devices.md says why


class Network(nn.Module):
    """Convolution, batch norm, linear layer: the names and the dimensions that variants go by."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3)


class Closure:
    """Puts gradients in by hand."""

    def __init__(self, optimizer, scaler=None):
        self.optimizer, self.scaler = optimizer, scaler

    def __call__(self):
        for p in self.optimizer.parameters():
            p.grad = torch.ones_like(p)
        loss = torch.ones((), device=self.optimizer.device)
        if self.scaler is not None:
            self.scaler.scale(loss)
        return Pass(loss, self.losses())

    def losses(self):
        return torch.ones(8, device=self.optimizer.device)

    def on(self, samples):
        return self()


def step(optimizer, closure):
    optimizer.step(closure, closure, closure)


def micro(optimizer, closure):
    optimizer.step_micro([closure] * 4)


def phases(optimizer, closure):
    closure()
    optimizer.ascend()
    closure()
    optimizer.descend()


def settled(optimizer, call=step, scaler=None):
    """Return the waits of a step, after the steps in which states begin."""
    closure = Closure(optimizer, scaler)
    for _ in range(3):
        with Waits() as counter:
            call(optimizer, closure)
            if scaler is not None:
                scaler.update()
    return counter.found


def optimizer_on(devices, make, **keywords):
    params = [nn.Parameter(torch.ones(3, device=d)) for d in devices for _ in range(2)]
    return make(torch.optim.SGD(params, lr=0.1, momentum=0.9), rho=0.1, **keywords)


def built(name, *overrides, **keywords):
    with torch.device("cuda"):
        model = Network()
    cfg = compose_tiny(f"optimizer={name}", *overrides).optimizer
    return build_optimizer(cfg, model, seed=0, total_steps=9, **keywords)


ADAMW = ("optimizer.base=adamw", "optimizer.lr=0.01")


@pytest.mark.parametrize("base", [(), ADAMW], ids=["as it is", "adamw"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_of_a_variant_waits_as_often_as_documented(name, base):
    with fake_cuda():
        optimizer = built(name, *base)
        optimizer.record_scalars = True
        assert settled(optimizer) == waits(reads=READS.get(name, 0))


SETTINGS = {
    "clipped": {"max_grad_norm": 1.0},
    "unchecked": {"skip_nonfinite": False},
    "loop": {"foreach": False},
    "floored": {"floor": 0.9},
    "every": {"every": 2},
}


@pytest.mark.parametrize("call", [step, micro, phases])
@pytest.mark.parametrize("settings", [{}, *SETTINGS.values()], ids=["plain", *SETTINGS])
@pytest.mark.parametrize("make", [SAM, FSAM])
def test_no_setting_makes_a_step_wait(make, settings, call):
    if call is micro and "every" in settings:
        settings = {}
    with fake_cuda():
        assert settled(optimizer_on(["cuda:0"], make, **settings), call) == waits()


@pytest.mark.parametrize("make", [SAM, FSAM])
def test_a_grad_scaler_does_not_wait(make):
    with fake_cuda():
        scaler = scaler_on_cuda()
        optimizer = optimizer_on(["cuda:0"], make, grad_scaler=scaler)
        assert settled(optimizer, step, scaler) == waits()


WAITING = {
    "an AdamW that counts on the CPU": (lambda p: torch.optim.AdamW(p), {}, 1),
    "the same, capturable": (lambda p: torch.optim.AdamW(p, capturable=True), {}, 0),
    "the same, fused": (lambda p: torch.optim.AdamW(p, fused=True), {}, 0),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, momentum=0.9, capturable=True), {}, 0),
    "a base from elsewhere": (lambda p: type("Mine", (torch.optim.SGD,), {})(p, lr=0.1), {}, 1),
    "a debiased average": (
        lambda p: torch.optim.SGD(p, lr=0.1),
        {"component": "subtract", "reference": "ema", "ema_init": "zero_debiased"},
        1,
    ),
    "an adaptive decision": (lambda p: torch.optim.SGD(p, lr=0.1), {"when": "adaptive", "total_steps": 9}, 1),
}


@pytest.mark.parametrize("case", WAITING)
def test_the_cases_in_which_the_host_waits(case):
    make, choices, reads = WAITING[case]
    with fake_cuda():
        params = [nn.Parameter(torch.ones(3, device="cuda")) for _ in range(2)]
        assert settled(SharpnessAware(make(params), rho=0.1, **choices)) == waits(reads=reads)


def test_a_state_that_begins_is_waited_for_once():
    with fake_cuda():
        optimizer = optimizer_on(["cuda:0"], FSAM)
        closure = Closure(optimizer)
        with Waits() as counter:
            step(optimizer, closure)
        assert counter.found == waits(reads=1)


def test_a_full_gradient_that_is_kept_is_waited_for_when_it_is_made():
    with fake_cuda():
        params = [nn.Parameter(torch.ones(3, device="cuda"))]
        optimizer = SharpnessAware(torch.optim.SGD(params, lr=0.1), ascent="full", full_every_steps=3)
        found = []
        for _ in range(6):
            with Waits() as counter:
                step(optimizer, Closure(optimizer))
            found.append(counter.reads)
        assert found[3:] == [1, 0, 0]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_closure_that_zeroes_is_not_waited_for(set_to_none):
    weights = nn.Parameter(torch.ones(3))
    optimizer = FSAM(torch.optim.SGD([weights], lr=0.1), rho=0.1)

    def closure():
        optimizer.zero_grad(set_to_none)
        loss = weights.square().sum()
        loss.backward()
        return loss

    def counted():
        with Waits(everywhere=True) as counter:
            optimizer.step(closure)
        return counter.reads

    optimizer.step(closure)
    with_gradients = counted()
    weights.grad = None
    assert with_gradients == counted()


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("make", [SAM, FSAM, FASAM, SAMNoise])
def test_parameters_on_two_devices(make, record):
    """Fake tensors refuse an operation between two devices, as CUDA does."""
    keywords = {"adaptive_form": "all"} if make is FASAM else {}
    with fake_cuda():
        optimizer = optimizer_on(["cuda:0", "cuda:1"], make, **keywords)
        optimizer.record_scalars = record
        assert settled(optimizer) == waits()
        assert all(p.grad.device == p.device for p in optimizer.parameters())


@pytest.mark.parametrize(
    "choices",
    [
        {"radius": "loss_budget", "budget_warmup": 0.0, "budget_decay": 1.0},
        {"radius": "unified", "mix": 0.5},
        {"radius": "linear", "total_steps": 9},
    ],
    ids=lambda choices: choices["radius"],
)
@pytest.mark.parametrize("devices", [["cuda:0"], ["cuda:0", "cuda:1"]], ids=["one", "two"])
def test_a_radius_that_follows_the_gradient_stays_on_the_device(choices, devices):
    with fake_cuda():
        optimizer = optimizer_on(devices, SharpnessAware, **choices)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, device=devices[0]))], "rho": 0.2})
        optimizer.record_scalars = True
        assert settled(optimizer) == waits()
        assert "perturbation/rho" in optimizer.scalars


def test_parameters_that_are_moved_later():
    """To another device, or to two: the optimizer looks at each step."""
    with fake_cuda():
        optimizer = optimizer_on(["cpu"], FSAM)
        for devices in (["cuda:0"], ["cuda:1", "cuda:0"]):
            optimizer.param_groups[0]["params"] = [nn.Parameter(torch.ones(3, device=d)) for d in devices]
            assert settled(optimizer) == waits()
            assert [str(d) for d in optimizer.devices] == devices
