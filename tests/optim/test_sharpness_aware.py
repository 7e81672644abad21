"""What implementations get wrong, point by point; every variant where it concerns every variant."""

import contextlib
import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.marks import long_but
from support.runs import ADAMW, VARIANTS, compose_tiny
from support.steps import batch, plain_closure, sample_closure_of
from support.steps import closure_of as closure_on
from torch import nn

from fsamlab import optim
from fsamlab.config import ConfigError
from fsamlab.optim import FASAM, FSAM, SAM, SharpnessAware, build_optimizer, frozen_batchnorm

PERTURBING = [v for v in VARIANTS if v not in ("sgd", "sgd_2x", "adamw")]


def network(dropout=0.0):
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
    return nn.Sequential(*layers).train()


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)


NEED_STEP = ("sam_full", "sam_component", "sam_noise", "multistep_sam", "lookbehind", "esam")


def closure_of(model, optimizer, k):
    if isinstance(optimizer, SharpnessAware) and optimizer.choices.descent.selects:
        return sample_closure_of(model, k, optimizer.zero_grad)
    return closure_on(model, k, optimizer.zero_grad)


def subtracting_full(base, **keywords):
    return SharpnessAware(base, component="subtract", reference="full", **keywords)


def run(model, optimizer, steps, start=0):
    for k in range(start, start + steps):
        other = closure_of(model, optimizer, 1000 + k)
        optimizer.step(closure_of(model, optimizer, k), other, other)
    return [p.detach().clone() for p in model.parameters()]


def variant(name, model, *overrides):
    cfg = compose_tiny(f"optimizer={name}", *overrides).optimizer
    return build_optimizer(cfg, model, seed=3, total_steps=9)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


# 1 state_dict


@pytest.mark.parametrize("base", [(), pytest.param(ADAMW, marks=pytest.mark.long)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_continues_bit_for_bit(name, base):
    base = base if name not in ("sgd", "sgd_2x", "adamw") else ()
    model = network()
    optimizer = variant(name, model, *base)
    run(model, optimizer, 4)
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    whole = run(model, optimizer, 4, start=4)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    other = network()
    other.load_state_dict(weights)
    resumed = variant(name, other, *base)
    resumed.load_state_dict(state)
    assert same(run(other, resumed, 4, start=4), whole)


def test_state_dict_holds_base_state_rho_rule_and_ema_but_no_weights():
    model = network()
    optimizer = FSAM(sgd(model), rho=0.3, sigma=0.7, lmbda=0.8, model=model)
    run(model, optimizer, 2)
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}  # as every torch optimizer's: others take these two along
    assert state["param_groups"][0]["rho"] == 0.3
    assert state["param_groups"][0]["sharpness_aware"]["parameters"]["sigma"] == 0.7
    assert state["param_groups"][0]["sharpness_aware"]["parameters"]["lmbda"] == 0.8
    for entry in state["state"].values():
        assert set(entry) == {"momentum_buffer", "ema", "ema_steps"}
    tensors = [v for entry in state["state"].values() for v in entry.values() if isinstance(v, torch.Tensor)]
    assert not any(torch.equal(t, p) for t in tensors for p in model.parameters() if t.shape == p.shape)


def test_hyper_parameters_come_from_the_checkpoint():
    model = network()
    state = FSAM(sgd(model), rho=0.3, sigma=0.7, lmbda=0.8).state_dict()
    optimizer = FSAM(sgd(model), rho=0.1)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["rho"] == 0.3
    assert optimizer.choices.component.sigma == 0.7
    assert optimizer.choices.reference.lmbda == 0.8


def test_the_state_of_another_variant_is_refused_by_name():
    model = network()
    with pytest.raises(ValueError, match="component=subtract there, all here"):
        SAM(sgd(model)).load_state_dict(FSAM(sgd(model)).state_dict())


def test_a_state_that_cannot_be_loaded_changes_nothing():
    model = network()
    optimizer = FSAM(sgd(model), sigma=0.5)
    with pytest.raises(ValueError, match="plain optimizer"):
        optimizer.load_state_dict(sgd(model).state_dict())
    other = FSAM([nn.Parameter(torch.ones(2))], lr=0.1, sigma=0.7).state_dict()
    with pytest.raises(ValueError, match="doesn't match"):
        optimizer.load_state_dict(other)
    assert optimizer.choices.component.sigma == 0.5


def test_a_group_added_later_has_its_weights_known():
    model = network()
    optimizer = optim.ASAM(torch.optim.SGD(model[0].parameters(), lr=0.1), model=model)
    model.add_module("late", nn.Linear(2, 2))
    optimizer.add_param_group({"params": list(model.late.parameters())})
    assert model.late.weight in optimizer._weights
    assert model.late.bias not in optimizer._weights


def test_no_state_dict_of_perturbed_weights():
    model = network()
    optimizer = SAM(sgd(model))
    closure_of(model, optimizer, 0)()
    optimizer.ascend()
    with pytest.raises(RuntimeError, match="perturbed"):
        optimizer.state_dict()
    with pytest.raises(RuntimeError, match="twice"):
        optimizer.ascend()


def test_no_state_is_loaded_while_weights_are_perturbed():
    model = network()
    optimizer = SAM(sgd(model))
    closure_of(model, optimizer, 0)()
    weights, state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.ascend()
    with pytest.raises(RuntimeError, match=r"load_state_dict\(\) between ascend\(\) and descend\(\): call restore\(\)"):
        optimizer.load_state_dict(state)
    optimizer.restore()
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    optimizer.restore()  # nothing is left that would overwrite the weights
    assert same(model.parameters(), [weights[name] for name, _ in model.named_parameters()])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("make", [SAM, FSAM])
def test_a_copy_made_while_weights_are_perturbed_has_the_true_weights(make, copied):
    model = network()
    optimizer = make(sgd(model), rho=0.5, model=model)
    run(model, optimizer, 2)
    closure_of(model, optimizer, 2)()
    optimizer.ascend()
    other, copy_of_it = copied((model, optimizer))
    for m, o in ((model, optimizer), (other, copy_of_it)):
        closure_of(m, o, 2)()
        o.descend()
    assert same(model.parameters(), other.parameters())


# 2, 3 restoring


@settings(max_examples=30, deadline=None)
@given(rho=st.floats(1e-2, 1e3), seed=st.integers(0, 1000), name=st.sampled_from(["l2", "adaptive"]))
def test_weights_come_back_bit_for_bit_in_the_same_memory(rho, seed, name):
    model = network()
    metric = {"metric": "adaptive", "eta": 0.01, "adaptive_form": "all"} if name == "adaptive" else {}
    optimizer = FSAM(sgd(model, lr=0.0), rho=rho, model=model, **metric)
    before = [p.detach().clone() for p in model.parameters()]
    addresses = [p.data_ptr() for p in model.parameters()]
    closure_of(model, optimizer, seed)()
    optimizer.ascend()
    norm = math.sqrt(sum(float(((p.detach() - b).double() ** 2).sum()) for p, b in zip(model.parameters(), before)))
    if name == "l2":
        assert norm == pytest.approx(rho, rel=1e-3)
    closure_of(model, optimizer, seed)()
    optimizer.descend()
    assert same([p.detach() for p in model.parameters()], before)
    assert [p.data_ptr() for p in model.parameters()] == addresses


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1e-3, 1e3))
def test_the_perturbation_does_not_depend_on_the_gradients_scale(factor):
    shifts = []
    for scale in (1.0, factor):
        w = nn.Parameter(torch.ones(5, dtype=torch.float64))
        optimizer = FSAM([w], lr=0.1, rho=0.2)
        for k in range(3):
            g = torch.Generator().manual_seed(k)
            w.grad = scale * torch.randn(5, generator=g, dtype=torch.float64)
            before = w.detach().clone()
            optimizer.ascend()
            shift = w.detach() - before
            w.grad = torch.zeros(5, dtype=torch.float64)
            optimizer.descend()
        shifts.append(shift)
    torch.testing.assert_close(shifts[0], shifts[1], rtol=1e-9, atol=1e-12)


def test_no_drift_in_bfloat16():
    w = nn.Parameter(torch.randn(100).bfloat16())
    before = w.detach().clone()
    optimizer = SAM([w], lr=0.0, rho=0.5)
    for k in range(200):
        for phase in (optimizer.ascend, optimizer.descend):
            w.grad = torch.randn(100, generator=torch.Generator().manual_seed(k)).bfloat16()
            phase()
    assert torch.equal(w, before)


class Branches(nn.Module):
    """Uses one of two layers, by the call: gradients in one pass and not in the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)
        self.calls, self.use = 0, "ab"

    def forward(self, x):
        layer = {"a": self.a, "b": self.b}[self.use[self.calls % len(self.use)]]
        self.calls += 1
        return layer(x)


@pytest.mark.parametrize("make", [SAM, FSAM])
def test_gradients_in_one_pass_only(make):
    model = Branches()
    before = copy.deepcopy(model.state_dict())
    optimizer = make(torch.optim.SGD(model.parameters(), lr=0.1), rho=5.0, model=model)
    optimizer.step(closure_of(model, optimizer, 0))  # a perturbed, only b has a gradient at w + eps
    assert torch.equal(model.a.weight, before["a.weight"])
    assert not torch.equal(model.b.weight, before["b.weight"])


def test_a_tensor_without_a_gradient_keeps_its_ema():
    model = Branches()
    model.use = "aabbaa"
    optimizer = FSAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    run(model, optimizer, 1)
    ema = optimizer.state[model.a.weight]["ema"].clone()
    run(model, optimizer, 1)
    assert torch.equal(optimizer.state[model.a.weight]["ema"], ema)
    assert optimizer.state[model.a.weight]["ema_steps"] == optimizer.state[model.b.weight]["ema_steps"] == 1


def test_no_gradient_at_all_is_a_plain_step():
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], lr=0.1)
    optimizer.step(lambda: torch.zeros(()))
    assert torch.equal(w, torch.ones(3))


# 4 batch norm


def buffers(model):
    return {k: v.clone() for k, v in model.named_buffers()}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", VARIANTS)
def test_running_statistics_see_each_descent_batch_once(name, momentum):
    model = network()
    model[1].momentum = momentum
    optimizer = variant(name, model)
    run(model, optimizer, 3)
    assert int(model[1].num_batches_tracked) == 3


def test_the_clean_pass_is_the_one_that_counts():
    """F-SAM's statistics after one step are those of one forward at the unperturbed weights."""
    plain, model = network(), network()
    plain(batch(0)[0])
    optimizer = FSAM(sgd(model), rho=1.0, model=model)
    run(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(buffers(plain).values(), buffers(model).values()))


def test_the_guard_nests_and_survives_exceptions():
    model = network()
    x = batch(0)[0]
    before = buffers(model)
    with frozen_batchnorm(model):
        with frozen_batchnorm(model):
            model(x)
        model(x)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), buffers(model).values()))
        with contextlib.suppress(ZeroDivisionError), frozen_batchnorm(model):
            model(x)
            raise ZeroDivisionError
    model(x)
    assert int(model[1].num_batches_tracked) == 1


def test_the_guard_still_normalises_with_the_batch():
    model = network()
    x = batch(0)[0]
    reference = copy.deepcopy(model)(x)
    with frozen_batchnorm(model):
        assert torch.equal(model(x), reference)


# 5 dropout


def masks(same_rng):
    model = network(dropout=0.5)
    seen = []
    model[3].register_forward_hook(lambda m, i, o: seen.append((o == 0) & (i[0] != 0)))
    optimizer = SAM(sgd(model), rho=1e-9, same_rng=same_rng, model=model)
    run(model, optimizer, 2)
    return seen


def test_same_rng_replays_the_masks():
    first, second, third, fourth = masks(True)
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(first, third)
    assert not torch.equal(*masks(False)[:2])


# 6 micro-batches are tested with the trainer; here the call itself


def test_micro_batches_average():
    model = network()
    optimizer = SAM(sgd(model, lr=0.0), rho=0.1, model=model)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step_micro([closure_of(model, optimizer, k) for k in range(4)])
    assert same([p.detach() for p in model.parameters()], before)
    each = []
    for k in range(4):
        single = SAM(sgd(model, lr=0.0), rho=0.1, model=model)
        single.step(closure_of(model, single, k))
        each.append([p.grad.clone() for p in model.parameters()])
    optimizer.step_micro([closure_of(model, optimizer, k) for k in range(4)])
    for p, *gradients in zip(model.parameters(), *each):
        torch.testing.assert_close(p.grad, torch.stack(gradients).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ascent", ["batch", "none"])
def test_micro_batches_whose_closures_do_not_zero_gradients(ascent):
    finals = []
    for zeroing in (True, False):
        model = network()
        optimizer = SharpnessAware(sgd(model), ascent=ascent, rho=0.5, model=model)
        closures = [closure_of(model, optimizer, k) for k in range(3)]
        if not zeroing:
            closures = [plain_closure(model, k) for k in range(3)]
        optimizer.step_micro(closures)
        finals.append([p.detach().clone() for p in model.parameters()])
    assert same(*finals)


@pytest.mark.parametrize("make", [SAM, FSAM, optim.RandomSAM, optim.SAMFullEMA, optim.SAMNoise, subtracting_full])
def test_closures_that_do_not_zero_gradients(make):
    finals = []
    for zeroing in (True, False):
        model = network()
        optimizer = make(sgd(model), rho=0.5, model=model)
        for k in range(3):
            optimizer.zero_grad()
            pair = [closure_of(model, optimizer, k), closure_of(model, optimizer, 9)]
            if not zeroing:
                pair = [plain_closure(model, k), plain_closure(model, 9)]
            optimizer.step(pair[0], reference_closure=pair[1])
        finals.append([p.detach().clone() for p in model.parameters()])
    assert same(*finals)


def test_micro_batches_need_their_own_ascent():
    model = network()
    with pytest.raises(ValueError, match="ascent=other_batch"):
        optim.SAMdb(sgd(model)).step_micro([closure_of(model, SAM(sgd(model)), 0)])
    with pytest.raises(ValueError, match="reference=full"):
        optim.SAMNoise(sgd(model)).step_micro([closure_of(model, SAM(sgd(model)), 0)])


# 8 non-finite gradients; fp16's scaler will use the same skip


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_a_non_finite_gradient_in_either_pass_touches_nothing(bad, which):
    model = network()
    optimizer = FSAM(sgd(model), rho=0.2, model=model)
    run(model, optimizer, 3)
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    closure, calls = closure_of(model, optimizer, 3), []

    def poisoned():
        loss = closure()
        if len(calls) == which:
            model[0].weight.grad[0, 0] = bad
        calls.append(1)
        return loss

    optimizer.step(poisoned)
    weights, state = before
    assert all(
        torch.equal(v, weights[k]) for k, v in model.state_dict().items() if k.split(".")[1] in ("weight", "bias")
    )
    after = optimizer.state_dict()
    for i, entry in state["state"].items():
        for key, value in entry.items():
            assert torch.equal(torch.as_tensor(after["state"][i][key]), torch.as_tensor(value)), key
    assert optimizer.num_nonfinite == 1
    assert all(torch.isfinite(p).all() for p in run(model, optimizer, 2, start=4))


def test_a_non_finite_perturbed_loss_is_skipped_too():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM([w], lr=0.1)
    losses = iter([torch.tensor(1.0), torch.tensor(math.inf)])

    def closure():
        w.grad = torch.ones(2)
        return next(losses)

    optimizer.step(closure)
    assert torch.equal(w, torch.ones(2))
    assert optimizer.num_nonfinite == 1


# the floor


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_direction_of_rounding_noise_is_no_direction(constant):
    """g = m for ever: d is rounding; blown up to radius rho it would be noise at full strength. g = 0: 0/0."""
    w = nn.Parameter(torch.full((50,), 0.3))
    optimizer = FSAM([w], lr=0.0, rho=1.0)
    g = constant * torch.linspace(-1, 1, 50)
    for _ in range(10):
        w.grad = g * (1 + 1e-7 * torch.randn(50))  # equal but for rounding: d is not zero, and means nothing
        before = w.detach().clone()
        optimizer.ascend()
        moved = not torch.equal(w, before)
        w.grad = g.clone()
        optimizer.descend()
    assert not moved
    assert int(optimizer.num_floored) == (10 if constant == 0 else 9)  # step 0 is SAM


# 9 closures


@pytest.mark.parametrize("name", [name for name in PERTURBING if name != "esam"])  # see test_selection.py
def test_each_variant_says_which_closures_it_needs(name):
    model = network()
    optimizer = variant(name, model)
    closure = closure_of(model, optimizer, 0)
    if optimizer.needs_ascent or optimizer.needs_reference:
        with pytest.raises(ValueError, match=r"needs (ascent|reference)_closure"):
            optimizer.step(closure)
    if any(choice.needs_base_state for choice in optimizer.choices.made()):
        optimizer.step(closure, closure, closure)  # the first step has no direction yet
    calls = []
    counted = lambda: (calls.append(1), closure())[1]  # noqa: E731
    clean = F.cross_entropy(copy.deepcopy(model)(batch(0)[0]), batch(0)[1])
    loss = optimizer.step(counted, closure, closure)
    assert len(calls) == int(optimizer.has_clean_loss) + optimizer.choices.ascent.num_ascents
    assert torch.equal(loss, clean) == optimizer.has_clean_loss
    assert ("loss_perturbed" in optimizer.scalars) == (name not in ("sgd",))


def test_no_closure_is_said_plainly():
    with pytest.raises(ValueError, match="needs a closure"):
        SAM(sgd(network())).step()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_in_a_closure_leaves_the_weights_as_they_were(failing):
    model = network()
    optimizer = FSAM(sgd(model), rho=1.0, model=model)
    run(model, optimizer, 2)
    before = [p.detach().clone() for p in model.parameters()]
    closure, calls = closure_of(model, optimizer, 2), []

    def raising():
        calls.append(1)
        if len(calls) == failing + 1:
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(raising)
    assert same([p.detach() for p in model.parameters()], before)
    optimizer.state_dict()
    run(model, optimizer, 1, start=3)


def test_two_phases_are_the_closure():
    a, b = network(), network()
    whole, phased = FSAM(sgd(a), model=a), FSAM(sgd(b), model=b)
    run(a, whole, 3)
    for k in range(3):
        closure = closure_of(b, phased, k)
        closure()
        phased.ascend()
        with frozen_batchnorm(b):
            closure()
        phased.descend()
    assert same(a.state_dict().values(), b.state_dict().values())


def smooth():
    """A network without batch norms and dropout: what one more pass would leave in them is the caller's business."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def in_two_phases(model, optimizer, steps):
    for k in range(steps):
        other = optimizer.needs_ascent == "other_batch"
        closure_of(model, optimizer, 1000 + k if other else k)()
        optimizer.ascend()
        closure_of(model, optimizer, k)()
        optimizer.descend()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("more", long_but(("",), ("", "optimizer.every=2", "optimizer.rho=0")))
def test_two_phases_are_step_or_say_that_step_is_needed(name, more):
    overrides = (more,) if more and name in PERTURBING else ()
    a, b = smooth(), smooth()
    whole, phased = variant(name, a, *overrides), variant(name, b, *overrides)
    expected = run(a, whole, 5)
    if name in NEED_STEP:
        with pytest.raises(RuntimeError, match=r"(ascent|reference|descent)=\w+ needs .* use step\(closure") as e:
            in_two_phases(b, phased, 1)
        assert "\n" not in str(e.value)
        assert same(b.parameters(), smooth().parameters())
    else:
        assert same(in_two_phases(b, phased, 5), expected)
        assert phased.num_steps == 5


def test_same_rng_needs_step():
    model = network(dropout=0.5)
    with pytest.raises(RuntimeError, match=r"same_rng=True .* use step\(closure"):
        SAM(sgd(model), same_rng=True).ascend()


@pytest.mark.parametrize("make", [optim.RandomSAM, optim.SAMdb, optim.SAMFull])
def test_same_rng_needs_a_clean_pass(make):
    with pytest.raises(ConfigError, match=r"same_rng=True: ascent=\w+ has no clean pass to replay"):
        make(sgd(network()), same_rng=True)


def test_a_base_that_runs_its_closure_itself_is_refused():
    with pytest.raises(TypeError, match="LBFGS runs its closure itself"):
        SAM(torch.optim.LBFGS(network().parameters()))


def test_a_base_that_perturbs_by_itself_is_refused():
    with pytest.raises(TypeError, match="the base is sharpness-aware already"):
        SAM(optim.FSAM(sgd(network())))


def test_a_choice_that_does_not_perturb_moves_nothing():
    model = smooth()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = SharpnessAware(sgd(model), ascent="none", rho=0.5)
    closure_of(model, optimizer, 0)()
    optimizer.ascend()
    assert same(model.parameters(), before)


def test_no_micro_batch_at_all():
    with pytest.raises(ValueError, match="one closure for each micro-batch"):
        SAM(sgd(network())).step_micro([])


def test_zeroing_gradients_in_place_cannot_reach_the_ema():
    a, b = network(), network()
    first, second = FSAM(sgd(a), model=a), FSAM(sgd(b), model=b)
    run(a, first, 3)
    second.zero_grad = lambda set_to_none=False: torch.optim.Optimizer.zero_grad(second, set_to_none=False)
    run(b, second, 3)
    assert same(a.parameters(), b.parameters())


# 10 clipping


def test_clipping_is_for_the_descent_only():
    model = network()
    optimizer = FSAM(sgd(model), max_grad_norm=1e-3, model=model)
    free = network()
    unclipped = FSAM(sgd(free), model=free)
    run(model, optimizer, 1)
    run(free, unclipped, 1)
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-3)
    for p, q in zip(model.parameters(), free.parameters()):
        assert torch.equal(optimizer.state[p]["ema"], unclipped.state[q]["ema"])


# 11 hyper-parameters


@pytest.mark.parametrize(
    "wrong",
    [
        {"rho": math.nan},
        {"rho": -0.1},
        {"rho": math.inf},
        {"lmbda": 1.0},
        {"lmbda": math.nan},
        {"sigma": math.nan},
        {"floor": math.nan},
        {"every": 0},
        {"max_grad_norm": 0.0},
        {"order": "paper"},
        {"order": "paper", "ema_init": "zero", "sigma": 10.0},
        {"order": "papers"},
    ],
)
def test_impossible_hyper_parameters_are_refused(wrong):
    with pytest.raises(ConfigError):
        FSAM(sgd(network()), **wrong)


def test_choices_that_mean_nothing_together_are_refused():
    base = sgd(network())
    with pytest.raises(ConfigError, match="gaussian"):
        SharpnessAware(base, ascent="gaussian", component="subtract", reference="ema")
    with pytest.raises(ConfigError, match="component"):
        SharpnessAware(base, component="subtrac")
    with pytest.raises(TypeError, match=r"^sigma=0\.5: has no effect in ascent=batch.* only component=subtract"):
        SharpnessAware(base, sigma=0.5)
    with pytest.raises(ValueError, match="parameter names"):
        FASAM(base)
    with pytest.raises(ConfigError, match="rho"):
        SAM(base).add_param_group({"params": [nn.Parameter(torch.ones(1))], "rho": math.nan})


# 12 schedulers and groups


def test_schedulers_act_on_the_bases_groups():
    model = network()
    optimizer = FSAM(sgd(model, lr=1.0), model=model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for k in range(5):
        optimizer.step(closure_of(model, optimizer, k))
        scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.5)
    assert optimizer.param_groups is optimizer.base.param_groups
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is optimizer.base.param_groups


def test_rho_is_per_group_and_zero_leaves_the_joint_norm():
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    optimizer = SAM(torch.optim.SGD([{"params": [a], "rho": 0.5}, {"params": [b], "rho": 0.0}], lr=0.1))
    a.grad, b.grad = torch.tensor([3.0, 0, 4]), torch.full((2,), 100.0)
    optimizer.ascend()
    torch.testing.assert_close(a.detach(), torch.tensor([0.3, 0, 0.4]))
    assert torch.equal(b, torch.zeros(2))


def test_rhos_share_one_joint_norm():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = SAM(torch.optim.SGD([{"params": [a], "rho": 1.0}, {"params": [b], "rho": 2.0}], lr=0.1))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.ascend()
    assert (a.item(), b.item()) == (pytest.approx(0.6), pytest.approx(1.6))


def test_add_param_group_takes_part():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = SAM([a], lr=0.1, rho=1.0)
    optimizer.add_param_group({"params": [b]})
    assert optimizer.base.param_groups[1]["rho"] == 1.0
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.ascend()
    assert b.item() == pytest.approx(0.8)


def test_hooks_copies_and_pickles():
    model = network()
    optimizer = FSAM(sgd(model), model=model)
    called = []
    optimizer.register_step_post_hook(lambda *a: called.append("step"))
    optimizer.register_state_dict_post_hook(lambda *a: called.append("state"))
    run(model, optimizer, 2)
    optimizer.state_dict()
    assert called == ["step", "step", "state"]
    clone_model, clone = copy.deepcopy((model, optimizer))
    pickled_model, pickled = pickle.loads(pickle.dumps((model, FSAM(sgd(model), model=model))))
    assert same(run(model, optimizer, 2, start=2), run(clone_model, clone, 2, start=2))
    run(pickled_model, pickled, 1)


# special cases


@pytest.mark.parametrize("base", [(), ADAMW], ids=["sgd", "adamw"])
def test_sigma_zero_is_sam_bit_for_bit(base):
    a, b = network(), network()
    ema = variant("fsam", a, *base, "optimizer.sigma=0")
    assert same(run(a, ema, 5), run(b, variant("sam", b, *base), 5))


@pytest.mark.parametrize("name", PERTURBING)
def test_rho_zero_is_the_base_bit_for_bit(name):
    a, b = network(dropout=0.3), network(dropout=0.3)
    torch.manual_seed(5)
    first = run(a, variant(name, a, "optimizer.rho=0"), 5)
    torch.manual_seed(5)
    second = run(b, variant("sgd", b), 5)
    assert same(first, second)
    assert same(a.state_dict().values(), b.state_dict().values())


def test_rho_zero_is_adamw_bit_for_bit():
    a, b = network(), network()
    first = run(a, variant("fsam", a, *ADAMW, "optimizer.rho=0", "optimizer.weight_decay=0.01"), 5)
    second = run(b, variant("adamw", b, "optimizer.lr=0.002"), 5)
    assert same(first, second)


def test_every_second_step_is_plain():
    model = network()
    optimizer = SAM(sgd(model), every=2, model=model)
    calls = []
    for k in range(4):
        closure = closure_of(model, optimizer, k)
        optimizer.step(lambda closure=closure: (calls.append(1), closure())[1])
    assert len(calls) == 2 + 1 + 2 + 1


def test_step_zero_of_fsam_is_sam():
    a, b = network(), network()
    assert same(run(a, FSAM(sgd(a), rho=0.2, model=a), 1), run(b, SAM(sgd(b), rho=0.2, model=b), 1))


def test_the_random_direction_is_a_function_of_seed_and_step():
    finals = []
    for seed in (1, 1, 2):
        model = network()
        torch.manual_seed(len(finals))  # the global generator plays no part
        finals.append(run(model, optim.RandomSAM(sgd(model), rho=0.5, seed=seed, model=model), 3))
    assert same(finals[0], finals[1])
    assert not same(finals[0], finals[2])


def test_full_gradient_every_n_steps():
    model = network()
    optimizer = optim.SAMFull(sgd(model), full_every_steps=3, model=model)
    calls = []
    for k in range(7):
        closure = closure_of(model, optimizer, k)
        optimizer.step(closure, lambda closure=closure: (calls.append(1), closure())[1])
    assert len(calls) == 3


@pytest.mark.parametrize("every", [1, 5])
def test_a_layer_frozen_since_the_full_gradient_is_not_perturbed(every):
    model = network()
    optimizer = optim.SAMFull(sgd(model), rho=0.5, full_every_steps=every, model=model)
    run(model, optimizer, 1)
    model[0].weight.requires_grad_(False)
    plain = closure_of(model, optimizer, 1)
    seen = []

    def closure():
        seen.append([p.detach().clone() for p in (model[0].weight, model[4].weight)])
        return plain()

    before = [p.detach().clone() for p in (model[0].weight, model[4].weight)]
    optimizer.step(closure, closure)
    assert torch.equal(seen[-1][0], before[0])
    assert not torch.equal(seen[-1][1], before[1])


@pytest.mark.parametrize("foreach", [True, False])
def test_a_gradient_whose_inverse_overflows_is_no_direction(foreach):
    p = nn.Parameter(torch.ones(1))
    optimizer = SAM([p], lr=0.0, rho=0.5, foreach=foreach)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append(p.item())
        loss = (p * 1e-40).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen == [1.0, 1.0]
    assert optimizer.num_floored == 1
    assert optimizer.num_nonfinite == 0


def test_sparse_gradients_are_refused_plainly():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = SAM(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.ascend()


def test_the_free_scalars_are_what_they_say():
    model = network()
    optimizer = FSAM(sgd(model), rho=0.2, model=model)
    run(model, optimizer, 3)
    m = torch.cat([optimizer.state[p]["ema"].flatten() for p in model.parameters()])
    closure = closure_of(model, optimizer, 3)
    closure()
    g = torch.cat([p.grad.flatten() for p in model.parameters()])
    optimizer.record_scalars = True
    optimizer.step(closure)
    found = {k: float(v) for k, v in optimizer.scalars.items()}
    cos = lambda a, b: float(F.cosine_similarity(a, b, dim=0))  # noqa: E731
    assert found["perturbation/grad_norm"] == pytest.approx(float(g.norm()), rel=1e-5)
    assert found["perturbation/ema_norm"] == pytest.approx(float(m.norm()), rel=1e-5)
    assert found["perturbation/cos_ema"] == pytest.approx(cos(g, m), abs=1e-5)
    assert found["perturbation/d_ratio"] == pytest.approx(float((g - m).norm() / g.norm()), rel=1e-5)
    assert found["perturbation/cos_eps"] == pytest.approx(cos(g - m, g), abs=1e-5)
    assert found["perturbation/ema_coefficient"] == pytest.approx(float(g @ m / (m @ m)), rel=1e-4)


def test_a_batch_norm_without_the_model_is_said_once():
    model = network()
    optimizer = FSAM(sgd(model))
    with pytest.warns(UserWarning, match=r"BatchNorm1d counts each batch twice .* model=") as found:
        run(model, optimizer, 3)
    assert len(found) == 1
    assert model[1].num_batches_tracked == 6
    run(smooth(), FSAM(sgd(smooth())), 1)  # no such norm, no warning: warnings are errors here
    frozen = network().eval()
    run(frozen, FSAM(sgd(frozen)), 2)


def test_the_names_of_the_popular_port():
    a, b = network(), network()
    port, phased = SAM(sgd(a), model=a), SAM(sgd(b), model=b)
    for k in range(3):
        for model, optimizer in ((a, port), (b, phased)):
            plain_closure(model, k)()
            optimizer.first_step(zero_grad=True) if optimizer is port else optimizer.ascend()
            assert all(p.grad is None for p in model.parameters())
            with frozen_batchnorm(model):
                plain_closure(model, k)()
            optimizer.second_step(zero_grad=True) if optimizer is port else optimizer.descend()
        assert all(p.grad is None for p in a.parameters())
        b.zero_grad()
    assert same(a.state_dict().values(), b.state_dict().values())
