"""train.activation_checkpointing: same bits, statistics of BatchNorm counted once, fewer saved activations."""

import pytest
import timm
import torch
from support.marks import long_but
from support.runs import VARIANTS, compose_diabetes, compose_tiny
from support.trainers import after, same_state, step, trainer_of
from torch import nn

from fsamlab.config import ConfigError, ModelConfig
from fsamlab.config.identity import config_hash
from fsamlab.models import build_model, make_checkpointable
from fsamlab.train.recomputation import Recomputation

NETWORKS = {
    "small_cnn": {"width": 4},
    "wrn28_10": {"depth": 16, "width": 1, "dropout": 0.3},
    "pyramidnet110": {"depth": 20, "alpha": 9},
    "bottlenecks": {"name": "pyramidnet110", "depth": 20, "alpha": 9, "block": "bottleneck"},
    "resnet18": {},
}
OF_TIMM = ("test_resnet", "test_vit")  # the smallest ones; the first has BatchNorm


def network(name):
    torch.manual_seed(0)
    if name in OF_TIMM:
        model = timm.create_model(name, num_classes=10, drop_path_rate=0.1)
    else:
        model = build_model(ModelConfig(**{"name": name, **NETWORKS[name]}), 10, 3)
    make_checkpointable(model, name)
    return model.double().train()


def one_pass(model, enabled, x):
    """Run forward and backward; return everything that has to be equal, and the bytes that the forward pass saved."""
    recomputation = Recomputation(model, enabled)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recomputation.forward():
        outputs = model(x)
    size = sum(saved.values())
    with recomputation.backward():
        outputs.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [outputs.detach(), *gradients, *model.buffers(), torch.rand(())], size


@pytest.mark.parametrize("name", long_but(["small_cnn", "test_resnet"], [*NETWORKS, *OF_TIMM]))
def test_gradients_and_statistics_are_those_of_the_plain_network(name):
    x = torch.randn(4, 3, *((160, 160) if name in OF_TIMM else (16, 16)), dtype=torch.float64)
    plain, plain_bytes = one_pass(network(name), False, x)
    found, fewer_bytes = one_pass(network(name), True, x)
    assert len(found) == len(plain)
    assert all(torch.equal(a, b) for a, b in zip(found, plain))
    weights = sum(p.numel() * 8 for p in network(name).parameters())
    assert fewer_bytes < plain_bytes  # both have the weights in them
    assert fewer_bytes - weights < 0.7 * (plain_bytes - weights) or name == "resnet18"


@pytest.mark.parametrize(("variant", "parts"), long_but([("fsam", 1)], [(v, 1) for v in VARIANTS] + [("fsam", 2)]))
def test_a_training_has_the_same_bits(variant, parts):
    plain = after(4, trainer_of(variant, accumulate_steps=parts))
    trainer = after(4, trainer_of(variant, accumulate_steps=parts, activation_checkpointing=True))
    assert same_state(trainer, plain)
    assert trainer.model[3].recompute is False


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_same_bits_in_other_formats(precision):
    plain, trainer = (
        after(3, trainer_of("fsam", precision=precision, channels_last=True, activation_checkpointing=on))
        for on in (False, True)
    )
    assert same_state(trainer, plain)


def test_only_training_passes_forget_activations(monkeypatch):
    """Evaluation, measurements, and passes without gradients see the plain network; an error switches off too."""
    calls = []
    plain = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr("fsamlab.models.checkpointing.checkpoint", lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    trainer = trainer_of("fsam", activation_checkpointing=True)
    trainer.evaluate(trainer.data.val)
    trainer.diagnostics.measure(trainer.snapshot())
    assert calls == []
    step(trainer, 0)
    assert len(calls) == 2 * 3  # two passes, three blocks
    monkeypatch.setattr(type(trainer.task), "loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(trainer, 1)
    assert trainer.model[3].recompute is False


@pytest.mark.parametrize("name", ["vgg16_bn", "mlp"])
def test_networks_without_blocks_are_refused(name):
    compose = compose_diabetes if name == "mlp" else compose_tiny
    with pytest.raises(ConfigError, match=rf"needs a network of blocks, and model={name} has none"):
        compose(
            *(() if name == "mlp" else ("model=vgg16_bn", "model.width=null")), "train.activation_checkpointing=true"
        )
    with pytest.raises(ConfigError, match="has no blocks to make again, and no method set_grad_checkpointing"):
        make_checkpointable(nn.Sequential(nn.Linear(2, 2)), "mine")


def test_the_setting_does_not_change_the_run_id():
    assert config_hash(compose_tiny("train.activation_checkpointing=true")) == config_hash(compose_tiny())
