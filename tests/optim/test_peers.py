"""The family beside an independent implementation, pytorch_optimizer: the same weights up to the rounding of its norms.

pytorch_optimizer takes the global norm in float32 also for float64 gradients (`get_global_gradient_norm`), which moves
weights by about 1e-8 a step; nothing else differs where a bound of ROUNDING holds.
"""

import pytest
import pytorch_optimizer as peers
import torch
import torch.nn.functional as F
from support.steps import batch, closure_of
from torch import nn

from fsamlab.optim import FSAM, SAM, SharpnessAware

STEPS, ROUNDING = 20, 1e-6
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}


def network(single=False):
    torch.manual_seed(0)
    if single:
        return nn.Linear(6, 3, bias=False).double()
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def ours(model, make):
    optimizer = make(torch.optim.SGD(model.parameters(), **SGD), model)
    for k in range(STEPS):
        optimizer.step(closure_of(model, k))
    return weights(model)


def theirs(model, optimizer, first_pass=True):
    for k in range(STEPS):
        closure = closure_of(model, k)
        if first_pass:
            closure()
        optimizer.step(closure)
    return weights(model)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def apart(one, other):
    return float((one - other).abs().max())


def test_sam():
    a, b = network(), network()
    found = theirs(b, peers.SAM(b.parameters(), torch.optim.SGD, rho=0.3, **SGD))
    assert apart(ours(a, lambda base, model: SAM(base, rho=0.3)), found) < ROUNDING


@pytest.mark.parametrize(("sigma", "lmbda"), [(1.0, 0.9), (1.0, 0.3), (0.5, 0.95)])
def test_fsam(sigma, lmbda):
    a, b = network(), network()
    found = theirs(b, peers.FriendlySAM(b.parameters(), torch.optim.SGD, rho=0.3, sigma=sigma, lmbda=lmbda, **SGD))
    own = ours(a, lambda base, model: FSAM(base, rho=0.3, sigma=sigma, lmbda=lmbda))
    assert apart(own, found) < ROUNDING
    assert apart(own, ours(network(), lambda base, model: SAM(base, rho=0.3))) > 1e-3  # or nothing would be shown


def test_the_port_of_asam_is_the_form_all_without_eta():
    a, b = network(), network()
    found = theirs(b, peers.SAM(b.parameters(), torch.optim.SGD, rho=0.3, adaptive=True, **SGD))
    own = ours(a, lambda base, model: SharpnessAware(base, rho=0.3, metric="adaptive", adaptive_form="all", eta=0.0))
    assert apart(own, found) < ROUNDING


class Constant:
    """A schedule of rho that gives one value."""

    def step(self):
        return 0.3


def test_gsam():
    a, b = network(), network()
    base = torch.optim.SGD(b.parameters(), **SGD)
    optimizer = peers.GSAM(b.parameters(), base, b, Constant(), alpha=0.4)
    for k in range(STEPS):
        x, y = batch(k)
        optimizer.set_closure(F.cross_entropy, x.double(), y)
        optimizer.step()
    own = ours(a, lambda base, model: SharpnessAware(base, rho=0.3, descent="surrogate_gap", alpha=0.4))
    assert apart(own, weights(b)) < ROUNDING


@pytest.mark.parametrize("form", ["decoupled", "coupled"])
def test_wsam(form):
    a, b = network(), network()
    optimizer = peers.WSAM(b, b.parameters(), torch.optim.SGD, rho=0.3, gamma=0.7, decouple=form == "decoupled", **SGD)
    found = theirs(b, optimizer, first_pass=False)
    own = ours(a, lambda base, model: SharpnessAware(base, rho=0.3, descent="weighted", gamma=0.7, wsam_form=form))
    assert apart(own, found) < ROUNDING


@pytest.mark.parametrize("single", [True, False])
def test_looksam(single):
    """The peer takes norms and projection of each tensor by itself, the paper jointly: one tensor is the same."""
    a, b = network(single), network(single)
    found = theirs(b, peers.LookSAM(b.parameters(), torch.optim.SGD, rho=0.3, k=4, alpha=0.7, **SGD))
    own = ours(a, lambda base, model: SharpnessAware(base, rho=0.3, descent="look", every=4, alpha=0.7))
    assert (apart(own, found) < ROUNDING) if single else (apart(own, found) > 1e-4)
