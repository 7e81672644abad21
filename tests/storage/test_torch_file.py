"""Checkpoints whose bytes have changed: found out, or the same tensors."""

import random

import pytest
import torch

from fsamlab.config import ConfigError
from fsamlab.models.pretrained import load_weights
from fsamlab.rundir import checkpoint
from fsamlab.storage.reading import Damaged
from fsamlab.storage.torch_file import holds_weights_alone


def test_a_flipped_byte_anywhere_is_found_or_means_nothing(tmp_path):
    weights = {"a": torch.randn(300), "b": torch.arange(40)}
    checkpoint.save(tmp_path, {"model": weights, "step": 3})
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    draw = random.Random(0)
    found = 0
    for _ in range(300):
        place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            state = checkpoint.load(path)
        except Damaged:
            found += 1
            continue
        assert state["step"] == 3
        assert all(torch.equal(state["model"][k], weights[k]) for k in weights), place
    assert found > 100


def test_a_flipped_byte_in_last_falls_back_to_previous(tmp_path, caplog):
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step, "optimizer": torch.full((1000,), 1.0)})
    flip(tmp_path / "last.pt", torch.full((1000,), 1.0))
    state = checkpoint.load_latest(tmp_path)
    assert state["step"] == 1
    assert torch.equal(state["optimizer"], torch.full((1000,), 1.0))
    assert "last.pt cannot be read" in caplog.text
    assert "checksum" in caplog.text


def flip(path, tensor):
    """Change a byte in the middle of a tensor that the file holds."""
    content = path.read_bytes()
    place = content.index(tensor.numpy().tobytes()) + 4 * (len(tensor) // 2)
    path.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])


def test_start_weights_with_a_flipped_byte_are_refused(tmp_path):
    model = torch.nn.Linear(50, 1)
    checkpoint.save(tmp_path, {"model": model.state_dict(), "step": 3})
    flip(tmp_path / "last.pt", model.weight.detach()[0])
    with pytest.raises(ConfigError, match="checksum"):
        load_weights(torch.nn.Linear(50, 1), str(tmp_path / "last.pt"))


def test_weights_alone_are_told_from_a_state_to_go_on_from(tmp_path):
    path = tmp_path / "last.pt"
    assert not holds_weights_alone(path)
    path.write_bytes(b"torn")
    assert not holds_weights_alone(path)
    checkpoint.save(tmp_path, {"model": {"w": torch.ones(3)}, "optimizer": {}, "step": 1, "metrics_bytes": 0})
    assert not holds_weights_alone(path)
    checkpoint.finish(tmp_path, {"w": torch.ones(3)}, 1)
    assert holds_weights_alone(path)
