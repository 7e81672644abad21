"""Steps that are made faster (compiled, captured as a CUDA graph) are the same steps."""

import dataclasses
import warnings

import pytest
import torch
from support.devices import bytes_held, on_each_device
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny

from fsamlab.config import TrainConfig
from fsamlab.train import compiled

FIELDS = {field.name for field in dataclasses.fields(TrainConfig)}
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


@pytest.mark.parametrize("setting", [f"train.{name}" for name in ("compile", "cuda_graph") if name in FIELDS])
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


@pytest.mark.skipif("cuda_graph" not in FIELDS, reason="train.cuda_graph is not there yet")
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
