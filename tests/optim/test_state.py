"""The optimizer's state where others look for it: torch's checkpoint tools, frameworks, hooks, converters."""

import copy
import math
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fsamlab.config import ConfigError
from fsamlab.optim import FASAM, FSAM, SAM, RandomSAM, SAMComponent, SAMFull, SAMNoise, SharpnessAware

MAKE = {
    "sgd": lambda base, model: SharpnessAware(base, ascent="none", model=model),
    "sam": lambda base, model: SAM(base, model=model),
    "fsam": lambda base, model: FSAM(base, rho=0.3, model=model),
    "fsam_debiased": lambda base, model: FSAM(base, ema_init="zero_debiased", model=model),
    "fsam_paper": lambda base, model: FSAM(base, order="paper", ema_init="zero", model=model),
    "fasam": lambda base, model: FASAM(base, model=model),
    "random": lambda base, model: RandomSAM(base, seed=4, model=model),
    "full": lambda base, model: SAMFull(base, full_every_steps=2, model=model),
    "noise": lambda base, model: SAMNoise(base, full_every_steps=2, model=model),
}
BASES = {
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "plain": lambda params: torch.optim.SGD(params, lr=0.1),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
}


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def closure_of(model, optimizer, k):
    dtype = next(model.parameters()).dtype
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(k), dtype=torch.float64).to(dtype)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        return loss

    return closure


def go(model, optimizer, steps):
    for k in steps:
        other = closure_of(model, optimizer, 100 + k)
        optimizer.step(closure_of(model, optimizer, k), ascent_closure=other, reference_closure=other)
    optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def made(name, base="momentum", dtype=torch.float32):
    model = network(dtype)
    return model, MAKE[name](BASES[base](model.parameters()), model)


def assert_same(a, b):
    """Two nested states, values compared."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b or (a != a and b != b)


# torch.distributed.checkpoint


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", MAKE)
def test_torchs_checkpoint_tools_take_the_whole_state(tmp_path, name, base, steps, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = made(name, base)
    go(model, optimizer, range(steps))
    weights, state = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path / "saved", no_dist=True)
    expected = copy.deepcopy(optimizer.state_dict())
    whole = go(model, optimizer, range(steps, steps + 3))

    other, resumed = made(name, base)
    weights, state = get_state_dict(other, resumed, options=options)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path / "saved", no_dist=True)
    set_state_dict(other, resumed, model_state_dict=weights, optim_state_dict=state, options=options)
    assert_same(resumed.state_dict(), expected)
    assert torch.equal(go(other, resumed, range(steps, steps + 3)), whole)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_state_whose_averages_a_checkpoint_reader_has_dropped_is_refused(tmp_path):
    """A base with a state from the start is not asked to make one, so nobody learns of the entries that will be."""

    def fresh():
        model = network()
        return model, FSAM(torch.optim.Adagrad(model.parameters(), lr=0.1), rho=0.3)

    def load(model, optimizer):
        weights, state = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path / "saved", no_dist=True)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)

    model, optimizer = fresh()
    go(model, optimizer, range(3))
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path / "saved", no_dist=True)
    whole = go(model, optimizer, range(3, 6))
    with pytest.raises(ValueError, match=r"lost ema, ema_steps .* take one step before"):
        load(*fresh())
    other, resumed = fresh()
    go(other, resumed, range(9, 10))  # what the message says
    resumed.zero_grad()
    load(other, resumed)
    assert torch.equal(go(other, resumed, range(3, 6)), whole)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", MAKE)
def test_asking_for_the_state_before_the_first_step_changes_nothing(name, base):
    model, optimizer = made(name, base)
    plain = go(*made(name, base), range(4))
    get_state_dict(model, optimizer)
    assert optimizer.num_steps == 0
    assert torch.equal(go(model, optimizer, range(4)), plain)


def test_a_full_state_dict_is_taken_too():
    model, optimizer = made("fsam")
    go(model, optimizer, range(3))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, state = copy.deepcopy(get_state_dict(model, optimizer, options=options))
    expected = copy.deepcopy(optimizer.state_dict())
    whole = go(model, optimizer, range(3, 6))
    other, resumed = made("fsam")
    set_state_dict(other, resumed, model_state_dict=weights, optim_state_dict=state, options=options)
    assert_same(resumed.state_dict(), expected)
    assert torch.equal(go(other, resumed, range(3, 6)), whole)


def test_a_group_that_is_not_perturbed_is_taken_too():
    states = []
    for _ in range(2):
        model = network()
        groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters()), "rho": 0.0}]
        optimizer = FSAM(torch.optim.SGD(groups, lr=0.1), rho=0.3)
        if not states:
            go(model, optimizer, range(2))
            states = [*get_state_dict(model, optimizer), optimizer.state_dict()]
    set_state_dict(model, optimizer, model_state_dict=states[0], optim_state_dict=states[1])
    assert_same(optimizer.state_dict(), states[2])


def test_a_state_of_before_still_loads():
    model, optimizer = made("fsam")
    go(model, optimizer, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    own = state["param_groups"][0]["sharpness_aware"]
    del own["blank"], own["values"]
    old = {
        "state": state["state"],
        "param_groups": [{k: v for k, v in g.items() if k != "sharpness_aware"} for g in state["param_groups"]],
        "sharpness_aware": own,
    }
    weights = copy.deepcopy(model.state_dict())
    whole = go(model, optimizer, range(3, 6))
    other, resumed = made("fsam")
    other.load_state_dict(weights)
    resumed.load_state_dict(old)
    assert torch.equal(go(other, resumed, range(3, 6)), whole)


def test_no_closure_is_still_an_error_where_nobody_asks_for_a_state():
    model, optimizer = made("fsam")
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
    go(model, optimizer, range(1))
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()


# optimizer.state


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_state_shows_the_entries_of_both(base):
    model, optimizer = made("fsam", base)
    assert not optimizer.state
    go(model, optimizer, range(2))
    assert list(optimizer.state) == list(model.parameters())
    keys = {"momentum": {"momentum_buffer"}, "adamw": {"step", "exp_avg", "exp_avg_sq"}}[base]
    for p, entries in optimizer.state.items():
        assert isinstance(entries, dict)
        assert set(entries) == keys | {"ema", "ema_steps"}
        assert all(entries[key] is optimizer.base.state[p][key] for key in keys)
    assert optimizer.state[nn.Parameter(torch.ones(1))] == {}


def test_what_is_written_to_the_state_is_used():
    """As a framework does that moves a state to another device: each entry by itself, or a whole copy."""
    model, optimizer = made("fsam")
    go(model, optimizer, range(2))
    for p in model.parameters():
        for key, value in optimizer.state[p].items():
            if isinstance(value, torch.Tensor):
                optimizer.state[p][key] = 2 * value
    first = next(model.parameters())
    optimizer.state[first] = type(optimizer.state[first])({k: v / 4 for k, v in optimizer.state[first].items()})
    twin, other = made("fsam")
    go(twin, other, range(2))
    for i, (p, q) in enumerate(zip(model.parameters(), twin.parameters())):
        factor = 0.5 if i == 0 else 2
        assert torch.equal(optimizer._own[p]["ema"], factor * other._own[q]["ema"])
        assert torch.equal(optimizer.base.state[p]["momentum_buffer"], factor * other.base.state[q]["momentum_buffer"])
    del optimizer.state[first]["ema"]
    assert optimizer.state[first].pop("momentum_buffer") is not None
    assert set(optimizer.state[first]) == {"ema_steps"}
    optimizer.state.clear()
    assert not optimizer.base.state
    assert len(optimizer.state) == 0


# a converted model


@pytest.mark.parametrize("name", ["sam", "fsam", "fasam", "noise"])
def test_a_model_converted_after_a_step_keeps_its_weights(name):
    model, optimizer = made(name, "plain")
    go(model, optimizer, range(2))
    model.double()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 1e-9)  # not to be had in float32
    before = [p.detach().clone() for p in model.parameters()]
    go(model, optimizer, range(2, 4))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))
    for p in model.parameters():
        tensors = [v for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)]
        assert all(v.dtype == torch.float64 for v in tensors)


# hooks


def test_everyones_hooks_fire_once_a_step_and_with_this_optimizer():
    model, optimizer = made("fsam")
    calls = []
    handles = [
        register_optimizer_step_pre_hook(lambda o, a, k: calls.append(("before", o))),
        register_optimizer_step_post_hook(lambda o, a, k: calls.append(("after", o))),
    ]
    optimizer.register_step_post_hook(lambda o, a, k: calls.append(("own", o)))
    optimizer.base.register_step_post_hook(lambda o, a, k: calls.append(("base", o)))
    expected = [("before", optimizer), ("base", optimizer.base), ("own", optimizer), ("after", optimizer)]
    try:
        optimizer.step(closure_of(model, optimizer, 0))
        assert calls == expected
        calls.clear()
        closure_of(model, optimizer, 1)()
        optimizer.ascend()
        assert calls == []
        closure_of(model, optimizer, 1)()
        optimizer.descend()
        assert calls == expected
        calls.clear()
        optimizer.step_micro([closure_of(model, optimizer, k) for k in (2, 3)])
        assert calls == expected
        calls.clear()
        optimizer.base.step()
        assert [word for word, _ in calls] == ["before", "base", "after"]
    finally:
        for handle in handles:
            handle.remove()


def test_schedulers_know_of_both_phases_and_of_micro_batches():
    model, optimizer = made("sam")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    closure_of(model, optimizer, 0)()
    optimizer.ascend()
    closure_of(model, optimizer, 0)()
    optimizer.descend()
    scheduler.step()  # warns, and warnings are errors, where it believes that no step was made
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


# a framework's wrapper


class Framework:
    """What Lightning puts around an optimizer: an object of a class made of both, which redirects step()."""

    def __init__(self, optimizer, copies):
        if copies:  # its older form
            self.__dict__ = {k: v for k, v in optimizer.__dict__.items() if k != "step"}
        self._inner = optimizer
        self.__class__ = type("Framework" + type(optimizer).__name__, (type(self), type(optimizer)), {})

    def step(self, closure=None, **keywords):
        return self._inner.step(closure, **keywords)

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("name", ["fsam", "random"])
def test_two_phases_through_a_frameworks_wrapper_are_the_optimizers_own(name, copies):
    model, optimizer = made(name)
    wrapped = Framework(optimizer, copies)
    assert isinstance(wrapped, torch.optim.Optimizer)
    twin, plain = made(name)
    for m, o in ((model, wrapped), (twin, plain)):
        o.record_scalars = True
        for k in range(3):
            closure_of(m, o, k)()
            o.ascend()
            closure_of(m, o, k)()
            o.descend()
        o.step(closure_of(m, o, 3))
    assert optimizer.num_steps == plain.num_steps == 4
    assert optimizer.scalars.keys() == plain.scalars.keys()
    assert_same(optimizer.state_dict(), plain.state_dict())
    assert_same(wrapped.state_dict(), plain.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters()))


# copies


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", MAKE)
def test_copies_and_pickles_continue_and_are_independent(name, base):
    model, optimizer = made(name, base)
    go(model, optimizer, range(3))
    copies = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    whole = go(model, optimizer, range(3, 5))
    for twin, other in copies:
        assert other.num_steps == 3
        other.base.load_state_dict(
            BASES[base](twin.parameters()).state_dict() if base == "plain" else other.base.state_dict()
        )
        assert torch.equal(go(twin, other, range(3, 5)), whole)
    assert optimizer.num_steps == 5


# rho


def test_the_state_of_a_plain_optimizer_goes_into_the_base():
    model = network()
    plain = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for k in range(3):
        plain.step(closure_of(model, plain, k))
    state = copy.deepcopy(plain.state_dict())
    for make in (lambda o: o, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        twin = network()
        twin, optimizer = make((twin, FSAM(BASES["momentum"](twin.parameters()), rho=0.3)))
        twin.load_state_dict(model.state_dict())
        with pytest.raises(ValueError, match=r"load it into `\.base`"):
            optimizer.load_state_dict(state)
        optimizer.base.load_state_dict(state)
        assert optimizer.param_groups[0]["rho"] == 0.3
        assert optimizer.param_groups[0]["lr"] == 0.05
        assert "rho" not in state["param_groups"][0]
        before = [p.detach().clone() for p in twin.parameters()]
        closure_of(twin, optimizer, 3)()
        optimizer.ascend()
        moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(twin.parameters(), before)])
        assert float(moved.norm()) == pytest.approx(0.3, rel=1e-5)


def test_each_group_keeps_its_own_rho():
    model = network()
    groups = [{"params": list(model[0].parameters()), "rho": 0.7}, {"params": list(model[2].parameters())}]
    optimizer = SAM(torch.optim.SGD(groups, lr=0.1), rho=0.2)
    optimizer.base.load_state_dict(torch.optim.SGD([{"params": list(m.parameters())} for m in model[::2]]).state_dict())
    assert [group["rho"] for group in optimizer.param_groups] == [0.7, 0.2]
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.base.load_state_dict(torch.optim.SGD(model.parameters()).state_dict())


def test_a_group_added_to_the_base_itself_gets_the_default():
    w = nn.Parameter(torch.ones(1))
    optimizer = SAM([nn.Parameter(torch.ones(1))], lr=0.1, rho=0.2)
    optimizer.base.add_param_group({"params": [w]})
    w.grad = torch.ones(1)
    optimizer.ascend()
    assert w.item() == pytest.approx(1.2)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, math.inf, None, "large"])
@pytest.mark.parametrize("name", ["fsam", "sam", "random"])
def test_a_rho_that_becomes_impossible_is_refused_in_the_next_step(name, wrong):
    model, optimizer = made(name)
    go(model, optimizer, range(2))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.param_groups[0]["rho"] = wrong
    said = "null" if wrong is None else wrong
    words = rf"^param_groups\[0\]\['rho'\]={said}: must be finite and >= 0$"
    closure = closure_of(model, optimizer, 2)
    for step in (lambda: optimizer.step(closure), optimizer.ascend, lambda: optimizer.step_micro([closure])):
        if name == "random" and step is not optimizer.ascend:
            continue
        with pytest.raises(ConfigError, match=words):
            step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))
    optimizer.param_groups[0]["rho"] = 0.1
    go(model, optimizer, range(2, 3))
    assert optimizer.num_steps == 3


def test_component_on_dcp_needs_no_step_of_its_own():
    """The stored full gradient is a state like any other: recomputed when it was last due, not after a resume."""
    model, optimizer = made("noise")
    go(model, optimizer, range(1))
    state = copy.deepcopy(optimizer.state_dict())
    resumed = SAMComponent(BASES["momentum"](model.parameters()), full_every_steps=2)
    with pytest.raises(ValueError, match="component=project_out there"):
        resumed.load_state_dict(state)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")  # torch's word
def test_a_parameter_that_stands_twice_in_a_group_is_refused():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    base, optimizer = torch.optim.SGD([p, p], lr=0.1), FSAM(torch.optim.SGD([q], lr=0.1))
    with pytest.raises(ValueError, match="twice in a group"):
        FSAM(base)
    with pytest.raises(ValueError, match="twice in a group"):
        optimizer.add_param_group({"params": iter([p, p])})
    assert [list(group["params"]) for group in optimizer.param_groups] == [[q]]
