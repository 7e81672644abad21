"""Copies of the weights that torch keeps inside a block are not used for the perturbed pass, nor in the next step."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from fsamlab.optim import FSAM, SAM, frozen_batchnorm


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def closure_of(model, optimizer, k):
    generator = torch.Generator().manual_seed(k)
    x, y = torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        return loss

    return closure


def closure_step(model, optimizer, k):
    optimizer.step(closure_of(model, optimizer, k))


def micro_step(model, optimizer, k):
    optimizer.step_micro([closure_of(model, optimizer, 10 * k + i) for i in range(2)])


def two_phases(model, optimizer, k):
    closure = closure_of(model, optimizer, k)
    closure()
    optimizer.ascend()
    with frozen_batchnorm(model):
        closure()
    optimizer.descend()


def trained(call, make, cache_enabled, steps_in_block):
    """Train four steps in blocks of autocast; without its cache every forward reads the weights as they are."""
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = make(base, rho=0.5, model=model)
    for first in range(0, 4, steps_in_block):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache_enabled):
            for k in range(first, first + steps_in_block):
                call(model, optimizer, k)
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("steps_in_block", [1, 4])
@pytest.mark.parametrize("make", [SAM, FSAM])
@pytest.mark.parametrize("call", [closure_step, micro_step, two_phases])
def test_one_autocast_block_around_steps(call, make, steps_in_block):
    right = trained(call, make, False, steps_in_block)
    found = trained(call, make, True, steps_in_block)
    assert all(torch.equal(a, b) for a, b in zip(found, right))


def test_the_perturbation_matters_here():
    """Else the test above could not fail."""
    unperturbed = trained(closure_step, lambda base, rho, model: SAM(base, rho=0.0, model=model), True, 1)
    assert not torch.equal(unperturbed[0], trained(closure_step, SAM, True, 1)[0])


class Symmetric(nn.Module):
    """Linear, so that its backward keeps no tensors, and a cached result can be used twice."""

    def forward(self, w):
        return w.triu() + w.triu(1).T


@pytest.mark.parametrize("call", [closure_step, two_phases])
def test_a_block_of_cached_parametrizations(call):
    trained = []
    for block in (contextlib.nullcontext, parametrize.cached):
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
        torch.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p)
        parametrize.register_parametrization(model[0], "weight", Symmetric())
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
        with block():
            for k in range(3):
                call(model, optimizer, k)
        trained.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*trained))
