"""A new choice on each axis: its parameter reaches it from the config, its state is kept, saved and restored."""

import io
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import toys
from helpers import build_trainer, compose_tiny

from fsamlab import checkpoint
from fsamlab.config import ConfigError, from_plain, rules, to_plain
from fsamlab.optim import build_optimizer, perturbation
from fsamlab.run import run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fsamlab.run", "helpers", "toys"])


@pytest.fixture
def registered():
    with toys.registered() as schema:
        yield schema


class Silent:
    def poll(self):
        pass

    def stopping(self):
        return False

    def row(self, row):
        pass

    def boundary(self):
        pass


def weights(*overrides):
    trainer = build_trainer(compose_tiny(*toys.OVERRIDES, "train.epochs=1", "train.max_steps=4", *overrides))
    trainer.fit(Silent())
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_both_tables_of_an_axis_have_the_same_choices():
    for axis, choices in rules.AXES.items():
        assert list(choices) == list(perturbation.AXES[axis])
        for name, rule in choices.items():
            assert issubclass(perturbation.AXES[axis][name], rule)
            assert perturbation.AXES[axis][name].parameters() == rule.parameters()


@pytest.mark.usefixtures("registered")
def test_what_the_config_says_is_what_trains():
    optimizer = build_optimizer(compose_tiny(*toys.OVERRIDES).optimizer, torch.nn.Linear(2, 2), seed=0)
    found = {name: getattr(axis, name) for axis in optimizer.choices.made() for name in axis.parameters()}
    assert found == toys.PARAMETERS
    base = weights()
    assert torch.equal(base, weights())
    for name in toys.PARAMETERS:
        assert not torch.equal(base, weights(f"optimizer.{name}=0.2")), name


@pytest.mark.usefixtures("registered")
def test_a_parameter_of_a_choice_not_made_is_refused_by_name():
    for name in toys.PARAMETERS:
        with pytest.raises(ConfigError, match=rf"^optimizer\.{name}=0\.1: has no effect in optimizer=sam; only \w+="):
            compose_tiny("optimizer=sam", f"optimizer.{name}=0.1")
        with pytest.raises(ConfigError, match=rf"^optimizer\.{name}=null: has to be set with \w+="):
            compose_tiny(*toys.OVERRIDES, f"optimizer.{name}=null")


def test_the_config_of_a_run_is_read_back(registered):
    config = compose_tiny(*toys.OVERRIDES)
    assert type(from_plain(to_plain(config)).optimizer) is registered
    assert from_plain(to_plain(config)) == config


@pytest.mark.parametrize("name", rules.parameter_types())
def test_every_parameter_is_refused_where_no_choice_has_it(name):
    value = {"order": "paper", "ema_init": "zero", "adaptive_form": "all", "ascent_nested": True}.get(name, 1)
    with pytest.raises(ConfigError, match=rf"^optimizer\.{name}=\S+: has no effect in optimizer=sam;"):
        compose_tiny("optimizer=sam", f"optimizer.{name}={value}")


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=sgd", "optimizer.every=2"),
        ("optimizer=sgd", "optimizer.floor=0.1"),
        ("optimizer=sgd", "optimizer.same_rng=true"),
        ("optimizer=sgd", "optimizer.metric=adaptive", "optimizer.eta=0.1", "optimizer.adaptive_form=all"),
        ("optimizer=sam_db", "optimizer.same_rng=true"),
        ("optimizer=random", "optimizer.same_rng=true"),
        ("optimizer=sam", "optimizer.betas=[0.5,0.9]"),
        ("optimizer=sam", "optimizer.eps=0.1"),
        ("optimizer=adamw", "optimizer.momentum=0.5"),
        ("optimizer=adamw", "optimizer.nesterov=true"),
    ],
    ids=lambda overrides: "-".join(overrides),
)
def test_a_key_that_the_variant_does_not_read_is_refused(overrides):
    key = overrides[1].split("=")[0]
    with pytest.raises(ConfigError, match=rf"^{key}=.*(has no effect in|perturbs nothing)") as e:
        compose_tiny(*overrides)
    assert "\n" not in str(e.value)


# state


def made():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    return model, build_optimizer(compose_tiny(*toys.OVERRIDES).optimizer, model, seed=0)


def go(model, optimizer, steps):
    for k in steps:
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(k))

        def closure(x=x):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def interrupted():
    model, optimizer = made()
    go(model, optimizer, range(3))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    whole = go(model, optimizer, range(3, 6))
    buffer.seek(0)
    return whole, *torch.load(buffer, weights_only=True)


def resumed(weights, state):
    model, optimizer = made()
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    return go(model, optimizer, range(3, 6))


@pytest.mark.usefixtures("registered")
def test_state_dict_continues_bit_for_bit():
    whole, weights, state = interrupted()
    assert torch.equal(resumed(weights, state), whole)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("key", [key for _, key in toys.STATE])
def test_every_state_is_needed_to_continue(key):
    whole, weights, state = interrupted()
    dropped = [entry.pop(key) for entry in state["state"].values()]
    assert len(dropped) == 4
    assert not torch.equal(resumed(weights, state), whole)


@pytest.mark.usefixtures("registered")
def test_the_number_of_a_choice_itself_is_kept(monkeypatch):
    whole, weights, state = interrupted()
    _, optimizer = made()
    optimizer.load_state_dict(state)
    assert optimizer.choices.ascent.num_kicks == 3
    monkeypatch.setattr(toys.Kick, "values", ())
    assert not torch.equal(resumed(weights, state), whole)


@pytest.mark.usefixtures("registered")
def test_a_skipped_step_changes_no_state():
    model, optimizer = made()
    go(model, optimizer, range(2))
    before = [{k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()} for p in model.parameters()]

    def closure():
        for p in model.parameters():
            p.grad = torch.full_like(p, torch.inf)
        return torch.zeros(())

    optimizer.step(closure)
    assert optimizer.num_nonfinite == 1
    assert optimizer.choices.ascent.num_kicks == 2
    for p, entries in zip(model.parameters(), before):
        assert all(torch.equal(torch.as_tensor(optimizer.state[p][k]), v) for k, v in entries.items())


# a run


def train(directory, die_after=None, forget=False):
    """One run in a process of its own; the process kills itself after a number of saves."""
    saves, real = [], checkpoint.save

    def save(*arguments, **keywords):
        real(*arguments, **keywords)
        saves.append(1)
        if len(saves) == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = save
    if forget:
        for toy in toys.TOYS.values():
            toy.state_keys = toy.values = ()
    with toys.registered():
        overrides = ("train.epochs=1", "train.checkpoint_every_steps=1", "diagnostics=off")
        run(compose_tiny(*toys.OVERRIDES, *overrides), Path(directory))


def attempt(directory, **keywords):
    directory.mkdir(exist_ok=True)
    process = CONTEXT.Process(target=train, args=(str(directory),), kwargs=keywords)
    process.start()
    process.join(120)
    return process.exitcode


def final(directory):
    return checkpoint.load(directory / "checkpoints" / "last.pt")["model"]


@pytest.mark.long
def test_a_killed_run_continues_bit_for_bit(tmp_path):
    assert attempt(tmp_path / "whole") == 0
    assert attempt(tmp_path / "killed", die_after=3) == -signal.SIGKILL
    shutil.copytree(tmp_path / "killed", tmp_path / "forgotten")
    assert attempt(tmp_path / "killed") == 0
    assert attempt(tmp_path / "forgotten", forget=True) == 0
    whole = final(tmp_path / "whole")
    assert all(torch.equal(v, whole[k]) for k, v in final(tmp_path / "killed").items())
    assert not all(torch.equal(v, whole[k]) for k, v in final(tmp_path / "forgotten").items())
