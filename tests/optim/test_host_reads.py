"""On CUDA the host waits where it is documented to, and parameters on two devices are trained; without a GPU.

Fake tensors have a device and no values, so gradients are put in by hand, and what the host reads is counted and
answered with 1.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fsamlab.optim import FASAM, FSAM, SAM, SAMNoise, SharpnessAware


class Reads(TorchDispatchMode):
    """Counts what the host reads from the device, and answers 1."""

    def __init__(self):
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.num += 1
            return True if args[0].dtype == torch.bool else 1.0
        return func(*args, **(kwargs or {}))


def optimizer_on(devices, make, **keywords):
    params = [nn.Parameter(torch.ones(3, device=d)) for d in devices for _ in range(2)]
    return make(torch.optim.SGD(params, lr=0.1, momentum=0.9), rho=0.1, **keywords)


def closure_of(optimizer):
    def closure():
        for p in optimizer.parameters():
            p.grad = torch.ones_like(p)
        return torch.ones((), device=optimizer.device)

    return closure


def reads(optimizer, call):
    closure = closure_of(optimizer)
    call(optimizer, closure)
    with Reads() as counter:
        call(optimizer, closure)
    return counter.num


def step(optimizer, closure):
    optimizer.step(closure, None, closure)


def micro(optimizer, closure):
    optimizer.step_micro([closure] * 4)


def phases(optimizer, closure):
    closure()
    optimizer.ascend()
    closure()
    optimizer.descend()


CHECKED = {step: 2, micro: 5, phases: 2}


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("call", CHECKED)
@pytest.mark.parametrize("make", [SAM, FSAM])
def test_the_host_waits_as_often_as_the_docstring_says(make, call, foreach):
    with FakeTensorMode(), Reads():
        checked = optimizer_on(["cuda:0"], make, foreach=foreach)
        assert reads(checked, call) == CHECKED[call]
        unchecked = optimizer_on(["cuda:0"], make, foreach=foreach, skip_nonfinite=False)
        assert reads(unchecked, call) == 0


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
        with Reads() as counter:
            optimizer.step(closure)
        return counter.num

    optimizer.step(closure)
    with_gradients = counted()
    weights.grad = None
    assert with_gradients == counted()


@pytest.mark.parametrize("every", [1, 2])
def test_steps_between_perturbations_do_not_wait(every):
    with FakeTensorMode(), Reads():
        optimizer = optimizer_on(["cuda:0"], FSAM, every=every)
        optimizer.num_steps = every - 1
        closure = closure_of(optimizer)
        with Reads() as counter:
            optimizer.step(closure)
        assert counter.num == (2 if every == 1 else 0)


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("make", [SAM, FSAM, FASAM, SAMNoise])
def test_parameters_on_two_devices(make, record):
    """Fake tensors refuse an operation between two devices, as CUDA does."""
    keywords = {"adaptive_form": "all"} if make is FASAM else {}
    with FakeTensorMode(), Reads():
        optimizer = optimizer_on(["cuda:0", "cuda:1"], make, **keywords)
        optimizer.record_scalars = record
        assert reads(optimizer, step) == 2
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
    with FakeTensorMode(), Reads():
        optimizer = optimizer_on(devices, SharpnessAware, **choices)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, device=devices[0]))], "rho": 0.2})
        optimizer.record_scalars = True
        assert reads(optimizer, step) == 2
        assert "perturbation/rho" in optimizer.scalars


def test_a_late_decision_waits_once_more():
    with FakeTensorMode(), Reads():
        optimizer = optimizer_on(["cuda:0"], SharpnessAware, when="adaptive", total_steps=9)
        assert reads(optimizer, step) == 3


def test_parameters_that_are_moved_later():
    """To another device, or to two: the optimizer looks at each step."""
    with FakeTensorMode(), Reads():
        optimizer = optimizer_on(["cpu"], FSAM)
        for devices in (["cuda:0"], ["cuda:1", "cuda:0"]):
            optimizer.param_groups[0]["params"] = [nn.Parameter(torch.ones(3, device=d)) for d in devices]
            assert reads(optimizer, step) == 2
            assert [str(d) for d in optimizer.devices] == devices
