"""Steps that are made faster (compiled, captured as a CUDA graph) are the same steps."""

import warnings

import pytest
import torch
from support.devices import bytes_held, deterministic, on_each_device
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny

from fsamlab.config import ConfigError
from fsamlab.train import compiled, graphed

SETTING = ("train.epochs=2", "diagnostics=off")
FAMILY = [name for name in ("sgd", "sam", "fsam", "asam", "gsam", "sam_full_ema") if name in VARIANTS]
CLOSE = {"train.compile": 1e-3, "train.cuda_graph": 1e-5}  # of the largest weight: fused sums round otherwise


def trained(device, *overrides):
    trainer = build_trainer(compose_tiny(*SETTING, *overrides), device)
    with warnings.catch_warnings():
        # The compiler and its libraries warn about themselves; this test is about numbers.
        warnings.simplefilter("ignore")
        trainer.fit(Rows())
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), trainer


@pytest.mark.parametrize("setting", CLOSE)
@on_each_device(FAMILY, twins=["fsam"])
def test_a_faster_step_is_the_same_step(name, device, setting, monkeypatch):
    if device.type == "cpu":  # code for the CPU would take a C++ compiler a minute
        if setting == "train.cuda_graph":
            pytest.skip("a CPU has no CUDA graphs")
        monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    plain, _ = trained(device, f"optimizer={name}")
    fast, trainer = trained(device, f"optimizer={name}", f"{setting}=true")
    assert trainer.step == trainer.total_steps
    assert float((fast - plain).abs().max() / plain.abs().max()) < CLOSE[setting]


def captured(device, warm_up, *overrides):
    """Make 50 steps, the first `warm_up` of each kind as usual; return weights, state and how many were repeated."""
    with pytest.MonkeyPatch.context() as patch, deterministic():
        patch.setattr(graphed, "WARM_UP", warm_up)
        config = compose_tiny("diagnostics=off", "train.epochs=10", "train.cuda_graph=true", *overrides)
        trainer = build_trainer(config, device)
        trainer.last_step = 50
        trainer.fit(Rows())
    state = trainer.optimizer.state_dict()["state"]
    tensors = [x for entries in state.values() for x in entries.values() if isinstance(x, torch.Tensor)]
    weights = list(trainer.model.state_dict().values())
    return [x.cpu() for x in weights + tensors], trainer.stepper.graphed.steps.replayed


@on_each_device(VARIANTS, twins=[])
def test_captured_steps_have_the_bits_of_steps_run_as_usual(name, device):
    """The twins on the CPU, without graphs: tests/train/test_graphed.py."""
    try:
        compose_tiny(f"optimizer={name}", "train.cuda_graph=true")
    except ConfigError:
        pytest.skip("refused: the step cannot be captured")
    usual, none = captured(device, 50, f"optimizer={name}")
    repeated, many = captured(device, graphed.WARM_UP, f"optimizer={name}")
    assert none == 0
    assert many >= 30
    assert len(usual) == len(repeated)
    assert all(torch.equal(a, b) for a, b in zip(usual, repeated))


@on_each_device(["fsam"], twins=[])
def test_captured_dropout_draws_the_masks_of_steps_run_as_usual(name, device):
    network = ("model.import_path=support.trainers:network_with_dropout", "model.width=null")
    usual, _ = captured(device, 50, f"optimizer={name}", *network)
    repeated, many = captured(device, graphed.WARM_UP, f"optimizer={name}", *network)
    assert many >= 30
    assert all(torch.equal(a, b) for a, b in zip(usual, repeated))


@on_each_device(["fsam"], twins=[])
def test_a_captured_step_keeps_its_memory(name, device):
    """Weights stay at their addresses, and a second epoch takes no more memory than the first."""
    trainer = build_trainer(compose_tiny(*SETTING, f"optimizer={name}", "train.cuda_graph=true"), device)
    addresses = [p.data_ptr() for p in trainer.model.parameters()]
    held = []
    for epoch in range(2):
        trainer.last_step = (epoch + 1) * trainer.steps_per_epoch
        trainer.fit(Rows())
        held.append(bytes_held(device))
    assert [p.data_ptr() for p in trainer.model.parameters()] == addresses
    assert held[1] <= held[0] * 1.01
