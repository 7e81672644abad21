"""Frozen layers, and a learning rate that falls towards the input."""

import copy
import dataclasses

import pytest
import torch
from support.runs import build_trainer, compose_tiny
from support.steps import closure_of
from torch import nn

from fsamlab.config import ConfigError
from fsamlab.config.identity import run_id
from fsamlab.optim import build_optimizer
from fsamlab.optim.layers import layers_of


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))


def built(model, **changes):
    return build_optimizer(dataclasses.replace(compose_tiny("optimizer=fsam").optimizer, **changes), model, seed=0)


def train(model, optimizer, steps):
    for k in steps:
        optimizer.step(closure_of(model, k))
    return [p.detach().clone() for p in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def of_parameters(model, optimizer, key):
    of = {p: group[key] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[p] for name, p in model.named_parameters() if p in of}


DECAY = {"layer_decay": 0.5, "lr": 0.4}


def test_lr_falls_towards_the_input_beside_weight_decay_and_perturb():
    model = network()
    optimizer = built(model, **DECAY, weight_decay_on="matrices", perturb=[{"name": "0.*", "rho": 0.0}])
    lr = {"0": 0.1, "1": 0.1, "3": 0.2, "5": 0.4}
    names = [name for name, _ in model.named_parameters()]
    assert of_parameters(model, optimizer, "lr") == pytest.approx({name: lr[name[0]] for name in names})
    assert of_parameters(model, optimizer, "rho") == {name: 0.0 if name[0] == "0" else 0.2 for name in names}
    decays = {name: 5e-4 if name in ("0.weight", "3.weight", "5.weight") else 0.0 for name in names}
    assert of_parameters(model, optimizer, "weight_decay") == decays


def test_a_vit_has_timms_layers():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=4)
    layers = layers_of(model)
    assert layers["pos_embed"] == layers["patch_embed.proj.weight"] == 0
    assert [layers[f"blocks.{i}.attn.qkv.weight"] for i in range(3)] == [1, 2, 3]
    assert layers["head.weight"] == max(layers.values()) == 4
    assert layers.keys() == dict(model.named_parameters()).keys()


def test_frozen_parameters_stay_and_the_others_train_as_if_those_were_constants():
    model, constant = network(), network()
    optimizer = built(model, freeze=["0.*", "1.*"])
    for p in (*constant[0].parameters(), *constant[1].parameters()):
        p.requires_grad_(False)
    before = [p.detach().clone() for p in model[0].parameters()]
    expected = train(constant, built(constant), range(4))
    assert same(train(model, optimizer, range(4)), expected)
    assert same(before, list(model[0].parameters()))
    assert not any(p.requires_grad for p in model[:2].parameters())
    assert model[1].num_batches_tracked == 4  # the statistics of a frozen batch norm follow the batches


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_a_training_with_both_goes_on_bit_for_bit(base):
    changes = {**DECAY, "lr": 0.01, "freeze": ["3.*"], "base": base, "momentum": 0.9}
    model = network()
    optimizer = built(model, **changes)
    train(model, optimizer, range(3))
    other = network()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = built(other, **changes)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(train(model, optimizer, range(3, 6)), train(other, resumed, range(3, 6)))


def test_a_run_anneals_each_group_and_measures():
    trainer = build_trainer(
        compose_tiny("optimizer=fsam", "optimizer.layer_decay=0.5", "optimizer.freeze=['*bn*']", "train.epochs=1")
    )
    rates = [group["initial_lr"] for group in trainer.optimizer.param_groups]
    assert len(set(rates)) > 1
    assert max(rates) == trainer.optimizer.defaults["lr"]


def test_the_defaults_change_nothing():
    model = network()
    assert len(built(model).param_groups) == 1
    config = compose_tiny("optimizer=fsam")
    named = [
        dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, layer_decay=x)) for x in (1.0, 0.9)
    ]
    assert run_id(named[0]) == run_id(config) != run_id(named[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"freeze": ["stem.*"]},
            r"^optimizer\.freeze=stem\.\*: matches no parameter of this model: there are 0",
        ),
        ({"freeze": ["*"]}, r"^optimizer\.freeze=.*: freezes all parameters of this model"),
        ({"freeze": []}, r"^optimizer\.freeze=\[\]: must be null or a list of name patterns"),
        ({"freeze": "stem"}, r"^optimizer\.freeze=stem: must be null or a list of name patterns"),
        ({"freeze": [3]}, r"^optimizer\.freeze=\[3\]: must be null or a list of name patterns"),
        ({"layer_decay": 0.0}, r"^optimizer\.layer_decay=0.*: must be finite and >= 0.01 and <= 1"),
    ],
)
def test_what_cannot_be_meant_is_one_line(changes, said):
    with pytest.raises(ConfigError, match=said):
        built(network(), **changes)


def test_a_model_of_one_layer_has_no_decay():
    with pytest.raises(ConfigError, match=r"^optimizer\.layer_decay=0\.5: has no effect in a model of one layer"):
        built(nn.Linear(6, 3), layer_decay=0.5)
