"""A guarded forward pass leaves running statistics alone, whatever kind of norm keeps them."""

import pytest
import torch
from torch import nn

from fsamlab.optim import frozen_batchnorm

NORMS = {
    "batch": nn.BatchNorm2d(3),
    "batch_cumulative": nn.BatchNorm2d(3, momentum=None),
    "instance": nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    "instance_untracked": nn.InstanceNorm2d(3),
}


@pytest.mark.parametrize("name", NORMS)
def test_nothing_moves_and_the_batch_still_normalises(name):
    norm = NORMS[name].train()
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    norm(x)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    places = {k: v.data_ptr() for k, v in norm.state_dict().items()}
    with frozen_batchnorm(norm):
        with frozen_batchnorm(norm):
            guarded = norm(3 * x + 1)
        norm(x - 2)
    with pytest.raises(ZeroDivisionError), frozen_batchnorm(norm):
        norm(x + 1 / 0)
    after = norm.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert {k: v.data_ptr() for k, v in after.items()} == places
    assert torch.allclose(guarded, norm(3 * x + 1), atol=1e-6)
    if before:
        assert not torch.equal(norm.state_dict()["running_mean"], before["running_mean"])  # and it moves again


def test_every_norm_of_a_model_is_found_in_each_step():
    shared = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"deep": nn.Sequential(nn.Sequential(shared), nn.Sequential(shared, nn.Identity()))})
    model.register_module("left_out", None)
    with frozen_batchnorm(model):
        assert not shared.track_running_stats
    later = model["later"] = nn.BatchNorm1d(3)
    held = nn.BatchNorm1d(3).eval()
    model["held"] = held
    with frozen_batchnorm(model):
        assert not shared.track_running_stats
        assert not later.track_running_stats
        assert held.track_running_stats  # in evaluation mode
    assert all(norm.track_running_stats for norm in (shared, later, held))
