"""A new choice on each axis: its parameter reaches it from the config, its state is kept, saved and restored."""

import copy
import functools
import io
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from support import toys
from support.processes import CONTEXT, FileFunction
from support.runs import build_trainer, compose_tiny

from fsamlab.axes import Ascent, rules
from fsamlab.axes.axis import FULL
from fsamlab.config import ConfigError, OptimizerConfig, from_plain, to_plain
from fsamlab.config.identity import run_id
from fsamlab.optim import FSAM, SharpnessAware, build_optimizer, reference
from fsamlab.run import run
from fsamlab.rundir import checkpoint


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


@pytest.mark.usefixtures("registered")
def test_what_the_config_says_is_what_trains():
    optimizer = build_optimizer(compose_tiny(*toys.OVERRIDES).optimizer, torch.nn.Linear(2, 2), seed=0)
    found = {name: getattr(axis, name) for axis in optimizer.choices.made() for name in axis.parameters()}
    assert found == {**toys.PARAMETERS, "every": 1, "start": 0.0, "stop": 1.0}
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


@pytest.mark.parametrize("name", [n for n in rules.parameter_types() if getattr(OptimizerConfig, n) is None])
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


def test_an_ascent_batch_has_one_size():
    with pytest.raises(ConfigError, match=r"^optimizer.ascent_share=0.25: ascent_batch_size is set too"):
        compose_tiny("optimizer=fsam_quarter", "optimizer.ascent_batch_size=8")


# what a choice sees of a step


@pytest.mark.parametrize(
    ("sigma", "order", "ema_init"),
    [(0.7, "official", "first_gradient"), (0.7, "paper", "zero"), (-0.4, "paper", "zero_debiased")],
)
def test_a_metric_with_a_state_sees_the_gradients_and_the_reference_of_the_step(sigma, order, ema_init, monkeypatch):
    """Beside a component that reuses the gradients' memory, and an average that is updated in place."""
    seen = []

    def update(self, part, state, ops):
        r = part.reference(ops)
        seen.append([*part.ascent(ops), *([] if r is None else [x.clone() for x in r])])

    monkeypatch.setattr(rules.METRICS["l2"], "update", update)
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 1, bias=False).double()
    choices = {"component": "subtract", "reference": "ema", "order": order, "ema_init": ema_init}
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), sigma=sigma, lmbda=0.8, **choices)
    rule = reference.FSAM(sigma, 0.8, order, ema_init)
    for k in range(4):
        x = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(k))

        def closure(x=x):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            return loss

        g = 2 * x.T @ (x @ model.weight.detach().T) / 8
        old = rule.m
        rule.direction([g.T])
        r = rule.debiased(rule.m, rule.t) if order == "paper" else old
        optimizer.step(closure)
        expected = [g.T, *(r or [])]
        assert len(seen[-1]) == len(expected)
        for found, true in zip(seen[-1], expected):
            torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-14)


def test_two_choices_cannot_keep_one_entry(monkeypatch):
    monkeypatch.setattr(rules.METRICS["l2"], "state_keys", ("ema",))
    with pytest.raises(ConfigError, match="metric=l2: keeps ema in a parameter's state, as reference=ema does"):
        FSAM(torch.nn.Linear(2, 2).parameters(), lr=0.1)


def test_a_choice_and_the_base_cannot_keep_one_entry(monkeypatch):
    monkeypatch.setattr(rules.METRICS["l2"], "state_keys", ("momentum_buffer",))

    def update(self, part, state, ops):
        for p, a in zip(part.params, part.ascent(ops)):
            state[p]["momentum_buffer"] = a

    monkeypatch.setattr(rules.METRICS["l2"], "update", update)
    model = torch.nn.Sequential(torch.nn.Linear(5, 2))
    optimizer = FSAM(model.parameters(), lr=0.1, momentum=0.9)
    go(model, optimizer, range(1))
    with pytest.raises(RuntimeError, match="the base and a choice both keep momentum_buffer"):
        optimizer.state_dict()
    with pytest.raises(ConfigError, match="metric=l2: keeps momentum_buffer in a parameter's state, as SGD does"):
        go(model, optimizer, range(1))


def test_a_new_ascent_along_the_full_gradient_keeps_it_and_needs_step(monkeypatch):
    """`needs` alone says that the gradient is kept; the new class does not have to repeat it."""

    class Doubled(Ascent):
        name = "doubled"
        needs = FULL
        data = "the full training set"
        full_every_steps = 4

        def gradients(self, step):
            return [2 * step.state[p]["full_gradient"] for p in step.params]

    monkeypatch.setitem(rules.AXES["ascent"], "doubled", Doubled)
    model = torch.nn.Sequential(torch.nn.Linear(5, 2))
    make = functools.partial(SharpnessAware, ascent="doubled")

    def goes_on(model, optimizer, k):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(k))

        def closure():
            loss = (model(x) ** 2).mean()
            loss.backward()
            return loss

        optimizer.zero_grad()
        optimizer.step(closure, closure)
        return [p.detach().clone() for p in model.parameters()]

    optimizer = make(torch.optim.SGD(model.parameters(), lr=0.1))
    goes_on(model, optimizer, 0)
    other, state = copy.deepcopy(model), optimizer.state_dict()
    resumed = make(torch.optim.SGD(other.parameters(), lr=0.1))
    resumed.load_state_dict(state)
    for p, q in zip(goes_on(model, optimizer, 1), goes_on(other, resumed, 1)):
        assert torch.equal(p, q)
    with pytest.raises(RuntimeError, match="use step"):
        resumed.ascend()


@pytest.mark.parametrize(
    ("name", "group", "values"),
    [
        ("adamw", "optimizer", {"momentum": 0.5, "nesterov": True}),
        ("sam", "optimizer", {"betas": [0.5, 0.9], "eps": 0.1}),
        ("sgd", "optimizer", {"every": 2, "floor": 0.1, "same_rng": True}),
        ("random", "optimizer", {"same_rng": True}),
        ("sam", "train", {"milestones": [0.7, 0.4]}),
        ("sam", "tracker", {"tags": ["x" * 80], "project": "a/b"}),
    ],
)
def test_what_a_former_version_has_recorded_is_read_back_as_it_is(name, group, values):
    plain = to_plain(compose_tiny(f"optimizer={name}"))
    before = from_plain(plain)
    plain[group].update(values)
    config = from_plain(plain)
    assert to_plain(config) == plain
    assert (run_id(config) == run_id(before)) is (group == "tracker")  # the run's directory is still its own
    model = torch.nn.Linear(2, 2)
    assert build_optimizer(config.optimizer, model, seed=0).same_rng is (name == "sgd" and group == "optimizer")
    given = [f"{group}.{k}={str(v).replace(' ', '')}" for k, v in values.items()]
    with pytest.raises(ConfigError):  # on a command line it is refused
        compose_tiny(f"optimizer={name}", *given)
    plain[group]["name" if group == "optimizer" else "warp"] = 3  # a damaged record is still one line
    with pytest.raises(ConfigError):
        from_plain(plain)


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


def train(directory, die_after=None):
    """One run in a process of its own; the process kills itself after a number of saves."""
    saves, real = [], checkpoint.save

    def save(*arguments, **keywords):
        real(*arguments, **keywords)
        saves.append(1)
        if len(saves) == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = save
    with toys.registered():
        overrides = ("train.epochs=1", "train.checkpoint_every_steps=1", "diagnostics=off")
        run(compose_tiny(*toys.OVERRIDES, *overrides), Path(directory))


def attempt(directory, **keywords):
    directory.mkdir(exist_ok=True)
    process = CONTEXT.Process(target=FileFunction(__file__, "train"), args=(str(directory),), kwargs=keywords)
    process.start()
    process.join(120)
    return process.exitcode


def forget(directory):
    """Set what the choices keep of the parameters to zero in a run's checkpoint."""
    path = directory / "checkpoints" / "last.pt"
    payload = checkpoint.load(path)
    keys = {key for toy in toys.TOYS.values() for key in toy.state_keys}
    for entries in payload["optimizer"]["state"].values():
        for key in keys & entries.keys():
            value = entries[key]
            entries[key] = torch.zeros_like(value) if isinstance(value, torch.Tensor) else type(value)()
    torch.save(payload, path)


def final(directory):
    return checkpoint.load(directory / "checkpoints" / "last.pt")["model"]


@pytest.mark.long
def test_a_killed_run_continues_bit_for_bit(tmp_path):
    assert attempt(tmp_path / "whole") == 0
    assert attempt(tmp_path / "killed", die_after=3) == -signal.SIGKILL
    shutil.copytree(tmp_path / "killed", tmp_path / "forgotten")
    assert attempt(tmp_path / "killed") == 0
    forget(tmp_path / "forgotten")
    assert attempt(tmp_path / "forgotten") == 0
    whole = final(tmp_path / "whole")
    assert all(torch.equal(v, whole[k]) for k, v in final(tmp_path / "killed").items())
    assert not all(torch.equal(v, whole[k]) for k, v in final(tmp_path / "forgotten").items())
