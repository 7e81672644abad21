"""`optimizer.base` may be any torch optimizer; weight decay may leave biases and norms alone."""

import copy

import pytest
import torch
from support.runs import compose_tiny
from support.steps import closure_of
from torch import nn

from fsamlab.config import ConfigError, from_plain, to_plain
from fsamlab.config.identity import run_id
from fsamlab.optim import build_optimizer
from fsamlab.optim.groups import parameter_groups

BASES = {
    "torch.optim:RMSprop": ("optimizer.base_options={alpha: 0.9}", "optimizer.lr=0.001"),
    "torch.optim:Adagrad": ("optimizer.lr=0.01",),
    "pytorch_optimizer:Lion": ("optimizer.lr=0.001", "optimizer.base_options={betas: [0.9, 0.95]}"),
    "timm.optim:Lamb": ("optimizer.lr=0.01",),
    "timm.optim:Adafactor": ("optimizer.lr=0.01",),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def built(model, base, *more, variant="fsam"):
    config = compose_tiny(f"optimizer={variant}", f"optimizer.base={base}", *BASES.get(base, ()), *more)
    return build_optimizer(config.optimizer, model, seed=0)


def train(model, optimizer, steps):
    for k in steps:
        optimizer.step(closure_of(model, k))
    return [p.detach().clone() for p in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("base", BASES)
def test_without_a_radius_it_is_the_base_itself(base):
    a, b = network(), network()
    optimizer = built(a, base, "optimizer.rho=0")
    cfg = compose_tiny("optimizer=fsam", f"optimizer.base={base}", *BASES[base]).optimizer
    keywords = {"lr": cfg.lr, "weight_decay": cfg.weight_decay, **(cfg.base_options or {})}
    alone = type(optimizer.base)(b.parameters(), **keywords)
    for k in range(4):
        closure_of(b, k)()
        alone.step()
    assert same(train(a, optimizer, range(4)), [p.detach() for p in b.parameters()])
    assert not same(train(network(), built(c := network(), base), ()), train(c, built(c, base), range(4)))


@pytest.mark.parametrize("base", BASES)
def test_it_resumes_bit_for_bit(base):
    whole = network()
    expected = train(whole, built(whole, base), range(6))
    model = network()
    first = built(model, base)
    train(model, first, range(3))
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(first.state_dict())
    resumed = network()
    resumed.load_state_dict(weights)
    second = built(resumed, base)
    second.load_state_dict(state)
    assert same(train(resumed, second, range(3, 6)), expected)


def test_base_and_options_are_recorded_and_part_of_the_run_id():
    lion = ("optimizer=fsam", "optimizer.base=pytorch_optimizer:Lion")
    config = compose_tiny(*lion, "optimizer.base_options={betas: [0.9, 0.95]}")
    assert from_plain(to_plain(config)) == config
    assert len({run_id(c) for c in (config, compose_tiny(*lion), compose_tiny("optimizer=fsam"))}) == 3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("base=adam",), "optimizer.base=adam: must be one of sgd, adamw (did you mean adamw?)"),
        (("base=torch.optim:Adamm",), "optimizer.base=torch.optim:Adamm: "),
        (("base=torch.nn:Linear",), "optimizer.base=torch.nn:Linear: must be a subclass of torch.optim.Optimizer"),
        (("base=torch.optim:LBFGS",), "optimizer.base=torch.optim:LBFGS: runs its closure itself"),
        (("base_options={alpha: 1}",), "optimizer.base_options={'alpha': 1}: base=sgd has keys of its own"),
        (("base=torch.optim:RMSprop", "base_options=[1]"), "optimizer.base_options=[1]: must be a mapping"),
        (
            ("base=torch.optim:RMSprop", "base_options={alfa: 0.9}"),
            "optimizer.base_options.alfa=0.9: torch.optim:RMSprop has no such keyword (did you mean alpha?)",
        ),
        (
            ("base=torch.optim:RMSprop", "base_options={lr: 0.9}"),
            "optimizer.base_options.lr=0.9: is a key of its own: set optimizer.lr",
        ),
        (
            ("base=torch.optim:RMSprop", "base_options={alpha: -1}"),
            "optimizer.base=torch.optim:RMSprop: cannot be made with lr=0.05, weight_decay=0.0005, alpha=-1: Inval",
        ),
        (("base=torch.optim:Rprop",), "optimizer.weight_decay=0.0005: torch.optim:Rprop has no weight decay: set"),
        (("base=torch.optim:RMSprop", "momentum=0.5"), "optimizer.momentum=0.5: has no effect in optimizer=fsam: only"),
        (("weight_decay_on=norms",), "optimizer.weight_decay_on=norms: must be one of all, matrices"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_wrong_base_is_one_line(overrides, said):
    with pytest.raises(ConfigError) as e:
        compose_tiny("optimizer=fsam", *(f"optimizer.{word}" for word in overrides))
    assert str(e.value).startswith(said)
    assert "\n" not in str(e.value)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
def test_a_base_that_refuses_the_parameters_of_the_model_is_one_line():
    with pytest.raises(ConfigError, match=r"^optimizer\.base=torch\.optim:Muon: cannot be made with .*2D") as e:
        built(network(), "torch.optim:Muon")
    assert "\n" not in str(e.value)


def test_weight_decay_on_matrices_leaves_biases_and_norms_alone():
    model = network()
    groups = parameter_groups(model, "all", 0.1, "matrices")
    assert [(g["rho"], g.get("weight_decay")) for g in groups] == [(0.1, None), (0.1, 0.0)]
    assert groups[0]["params"] == [model[0].weight, model[3].weight]
    assert len(groups[1]["params"]) == 4
    assert parameter_groups(model, "all", 0.1) == [{"params": list(model.parameters())}]  # as it always was
    optimizer = built(model, "sgd", "optimizer.lr=1", "optimizer.weight_decay_on=matrices", "optimizer.perturb=norm")
    assert [(g["rho"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.0, 5e-4), (0.0, 0.0), (0.2, 0.0)]
