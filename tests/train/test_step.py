import pytest
import torch

from fsamlab.train.step import seed_generators


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
def test_the_generator_is_seeded_as_torch_does(seed):
    torch.manual_seed(seed)
    expected = torch.rand(3), torch.get_rng_state()
    seed_generators(seed, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected[0])
    assert torch.equal(torch.get_rng_state(), expected[1])


@pytest.mark.parametrize(("device", "times"), [("cpu", 0), ("cuda", 1)])
def test_gpus_are_seeded_where_a_gpu_trains(device, times, monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    seed_generators(3, torch.device(device))
    assert seeds == [3] * times
