"""Choices that go by the share of training: the part of the training that perturbs."""

import copy
import io

import pytest
import torch
from support.runs import build_trainer, compose_tiny
from support.steps import closure_of
from torch import nn

from fsamlab.config import ConfigError
from fsamlab.optim import SAM, SharpnessAware

TOTAL = 16


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model, optimizer, steps):
    """Return the number of passes of each step, and the weights."""
    passes = []
    for k in steps:
        closure, calls = closure_of(model, k, optimizer.zero_grad), []
        optimizer.step(lambda closure=closure, calls=calls: (calls.append(1), closure())[1])
        passes.append(len(calls))
    return passes, torch.cat([p.detach().flatten() for p in model.parameters()])


# start, stop


def test_a_window_perturbs_in_its_own_steps_alone_and_counts_every_from_its_start():
    model = network()
    optimizer = SAM(sgd(model), rho=0.1, every=2, start=0.3, stop=0.7, total_steps=TOTAL, model=model)
    passes, _ = train(model, optimizer, range(TOTAL))
    assert [k for k, n in enumerate(passes) if n == 2] == [5, 7, 9]  # from round(4.8) to before round(11.2)
    assert optimizer.choices.when.past(16, 2) == [7, 9]
    assert optimizer.choices.when.past(8, 2) == [5, 7]


@pytest.mark.parametrize("descent", ["perturbed", "look"])
def test_steps_outside_the_window_are_those_of_the_base(descent):
    a, b = network(), network()
    optimizer = SharpnessAware(sgd(a), rho=0.1, descent=descent, every=2, start=0.25, stop=0.5, total_steps=TOTAL)
    base = sgd(b)

    def plain(steps):
        for k in steps:
            base.zero_grad()
            closure_of(b, k)()
            base.step()
        return torch.cat([p.detach().flatten() for p in b.parameters()])

    assert torch.equal(train(a, optimizer, range(4))[1], plain(range(4)))
    train(a, optimizer, range(4, 8))
    b.load_state_dict(a.state_dict())
    base.load_state_dict(copy.deepcopy(optimizer.base.state_dict()))
    assert torch.equal(train(a, optimizer, range(8, 12))[1], plain(range(8, 12)))


def test_a_share_of_training_needs_the_length_of_the_training():
    model = network()
    SAM(sgd(model), start=0.0, stop=1.0)
    with pytest.raises(ConfigError, match=r"^total_steps=null: when=every as set goes by the share of training: give"):
        SAM(sgd(model), start=0.5)
    with pytest.raises(ConfigError, match=r"^total_steps=0: must be finite and >= 1"):
        SAM(sgd(model), start=0.5, total_steps=0)
    with pytest.raises(ConfigError, match=r"^stop=0.5: must be > start, which is 0.5"):
        SAM(sgd(model), start=0.5, stop=0.5, total_steps=9)


def test_a_training_goes_on_bit_for_bit_and_a_state_of_another_length_is_refused():
    def make(model, total_steps=TOTAL):
        return SAM(sgd(model), rho=0.1, start=0.25, stop=0.75, total_steps=total_steps, model=model)

    model = network()
    optimizer = make(model)
    train(model, optimizer, range(3))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    other = copy.deepcopy(model)
    resumed = make(other)
    resumed.load_state_dict(state)
    told = copy.deepcopy(model)
    by_its_state = SAM(sgd(told), model=told)  # start, stop and the length come with the state
    by_its_state.load_state_dict(copy.deepcopy(state))
    whole = train(model, optimizer, range(3, TOTAL))
    for found in (train(other, resumed, range(3, TOTAL)), train(told, by_its_state, range(3, TOTAL))):
        assert found[0] == whole[0]
        assert torch.equal(found[1], whole[1])
    with pytest.raises(ValueError, match=r"a training of 16 steps .* total_steps is 20 here: give total_steps=16"):
        make(network(), total_steps=20).load_state_dict(state)


def test_the_trainer_gives_its_own_number_of_steps():
    trainer = build_trainer(compose_tiny("optimizer=sam", "optimizer.start=0.5", "train.epochs=3", "train.max_steps=2"))
    assert trainer.optimizer.choices.total_steps == trainer.total_steps == 3 * trainer.steps_per_epoch


def test_a_window_without_a_perturbation_is_refused():
    with pytest.raises(ConfigError, match=r"^optimizer\.start=0\.5: has no effect in optimizer=sgd"):
        compose_tiny("optimizer=sgd", "optimizer.start=0.5")
