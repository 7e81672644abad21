import pytest
import torch
from support.runs import build_trainer, compose_tiny

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


def test_every_pass_of_a_step_is_in_train_mode():
    trainer = build_trainer(compose_tiny("optimizer=sam"))
    modes = []
    trainer.model.register_forward_hook(lambda model, *_: modes.append({m.training for m in model.modules()}))
    batch = next(trainer.data.train.batches(0))
    list(trainer.model.modules())[-1].eval()  # a part alone, before the first step
    trainer.stepper.make(batch, 0)
    trainer.model.eval()  # as an evaluation leaves the model
    trainer.stepper.make(batch, 1)
    assert modes == [{True}] * 4
