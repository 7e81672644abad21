"""Every file in conf/optimizer/ against the rule of its paper and the properties that every variant has.

The optimizer is built from the file as a run builds it. Further columns of the matrix: test_sharpness_aware.py
(state_dict, BatchNorm, two phases), train/test_trainer.py (resume), test_peers.py.
"""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support import rules
from support.marks import long_but
from support.runs import VARIANTS, compose_tiny
from torch import nn
from torch.func import functional_call

from fsamlab.optim import SampleClosure, build_optimizer, reference

STEPS, SEED = 12, 3
ADAMW = ("optimizer.base=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0.1")
SGD = ("optimizer.lr=0.1", "optimizer.weight_decay=0.01")
PERTURBING = [name for name in VARIANTS if name not in ("sgd", "sgd_2x", "adamw")]
SHOWN = ("sam", "fsam", "looksam")  # in the plain suite; the long tests take all


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).double()


def losses(model, k, w=None):
    """Return the losses of the samples of batch k; rules.FULL is a large batch."""
    generator = torch.Generator().manual_seed(k)
    n = 100 if k == rules.FULL else 16
    x, y = torch.randn(n, 6, generator=generator).double(), torch.randint(0, 3, (n,), generator=generator)
    outputs = model(x) if w is None else functional_call(model, dict(zip(dict(model.named_parameters()), w)), (x,))
    return F.cross_entropy(outputs, y, reduction="none")


def closure(model, optimizer, k):
    return SampleClosure(lambda samples: losses(model, k)[samples], optimizer.zero_grad)


def built(name, model, *overrides):
    cfg = compose_tiny(f"optimizer={name}", *overrides).optimizer
    return cfg, build_optimizer(cfg, model, seed=SEED, total_steps=STEPS)


def train(model, optimizer, steps=STEPS, start=0):
    for k in range(start, start + steps):
        full = optimizer.needs_reference or optimizer.needs_ascent == "full"
        further = closure(model, optimizer, rules.FULL if full else rules.OTHER + k)
        optimizer.step(closure(model, optimizer, k), further, further)
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_variant_has_a_rule():
    assert sorted(rules.RULES) == VARIANTS


ON_SGD = [(name, "sgd") for name in VARIANTS if name != "adamw"]
ON_ADAMW = [(name, "adamw") for name in ("adamw", *PERTURBING)]


@pytest.mark.parametrize(("name", "base"), long_but(ON_SGD, ON_SGD + ON_ADAMW))
def test_the_file_trains_by_the_rule_of_its_paper(name, base):
    model = network()
    cfg, optimizer = built(name, model, *(ADAMW if base == "adamw" else SGD))
    slow = reference.AdamW(0.01, 0.1) if base == "adamw" else reference.SGD(0.1, 0.9, 0.01)

    step = rules.RULES[name](rules.Rule(cfg, slow, partial(losses, model), model, SEED, STEPS))
    w = [p.detach().clone() for p in model.parameters()]
    for k in range(STEPS):
        train(model, optimizer, 1, start=k)
        w = step(w, k)
        assert max(float((p.detach() - x).abs().max()) for p, x in zip(model.parameters(), w)) < 1e-12


@pytest.mark.parametrize("name", long_but(SHOWN, PERTURBING))
def test_foreach_and_loop_are_the_same_bits(name):
    finals = []
    for foreach in (True, False):
        model = network()
        optimizer = built(name, model)[1]
        optimizer.foreach = foreach  # read at the start of each step
        finals.append(train(model, optimizer))
    assert same(*finals)


@pytest.mark.parametrize("name", long_but(SHOWN, PERTURBING))
def test_radius_zero_is_the_base(name):
    plain, model = network(), network()
    expected = train(plain, built("sgd", plain)[1])
    found = train(model, built(name, model, "optimizer.rho=0")[1])
    assert same(found, expected)


@pytest.mark.parametrize("name", long_but(SHOWN, PERTURBING))
def test_unused_and_frozen_parameters(name):
    """Parameters without a gradient keep their weights, and change nothing for the others."""
    plain, model = network(), network()
    expected = train(plain, built(name, plain)[1])
    model.add_module("unused", nn.LayerNorm(2).double())
    model.add_module("frozen", nn.LayerNorm(2).double().requires_grad_(False))
    if name in ("random", "rwp"):  # before the only pass nobody knows which gradients will be there
        model.unused.requires_grad_(False)
    model.forward = lambda x: nn.Sequential(*list(model.children())[:4])(x)
    optimizer = built(name, model)[1]
    found = train(model, optimizer)
    assert same(found[: len(expected)], expected)
    assert same(found[len(expected) :], [torch.ones(2).double(), torch.zeros(2).double()] * 2)


@pytest.mark.parametrize("name", long_but(SHOWN, PERTURBING))
def test_a_gradient_of_zero_moves_nothing(name):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = built(name, model, "optimizer.weight_decay=0")[1]

    still = SampleClosure(lambda samples: 0 * losses(model, 0)[samples], optimizer.zero_grad)
    for _ in range(3):
        optimizer.step(still, still, still)
    assert same(list(model.parameters()), before)


@pytest.mark.parametrize("name", long_but(SHOWN, PERTURBING))
def test_a_copy_goes_on_alike_and_by_itself(name):
    model = network()
    optimizer = built(name, model)[1]
    train(model, optimizer, 4)
    other, other_optimizer = copy.deepcopy((model, optimizer))
    expected = train(model, optimizer, 4, start=4)
    assert same(train(other, other_optimizer, 4, start=4), expected)
