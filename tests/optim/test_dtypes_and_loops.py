"""Other people's loops and parameters: maximize, scaled gradients, losses of any kind, mixed and complex types."""

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from support.overflow import Overflowing
from torch import nn

from fsamlab.config import ConfigError
from fsamlab.optim import ASAM, FASAM, FSAM, SAM, RandomSAM, SAMComponent, SAMFullEMA, SAMNoise, SharpnessAware

momentum_sam = functools.partial(SharpnessAware, ascent="momentum")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(k):
    generator = torch.Generator().manual_seed(k)
    return torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


# maximize


@pytest.mark.parametrize("make", [SAM, FSAM, ASAM, SAMFullEMA, SAMNoise, RandomSAM, momentum_sam])
def test_maximizing_minus_the_loss_is_minimizing_the_loss(make):
    """But for a random direction, which has no sign of its own: there the two go opposite ways."""
    found = []
    for sign in (1, -1):
        model = network()
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, maximize=sign < 0)
        optimizer = make(base, rho=0.3, model=model)
        optimizer.record_scalars = True

        def closure(k, model=model, optimizer=optimizer, sign=sign):
            optimizer.zero_grad()
            x, y = batch(k)
            loss = sign * F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        for k in range(4):
            optimizer.step(lambda k=k: closure(k), None, lambda: closure(99))
        found.append(weights(model))
    assert same(*found) == (make is not RandomSAM)


def test_a_group_that_maximizes_is_moved_against_its_gradient():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = SAM(torch.optim.SGD([{"params": [a]}, {"params": [b], "maximize": True}], lr=0.1), rho=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.ascend()
    assert (a.item(), b.item()) == (pytest.approx(0.6), pytest.approx(-0.8))


# scaled gradients


def scaled_run(make, scaler, overflow_in=(), call="step", every=1):
    """Train with losses through a scaler that grows after two good steps; overflow in given passes."""
    model = network()
    keywords = {} if scaler is None else {"grad_scaler": scaler}
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = make(base, rho=0.3, model=model, max_grad_norm=0.5, every=every, **keywords)
    passes, scales, skipped = [0], [], []
    for k in range(7):

        def closure(part=0, k=k):
            optimizer.zero_grad()
            x, y = batch(10 * k + part)
            output = model(x)
            if passes[0] in overflow_in:
                output = Overflowing.apply(output)
            loss = F.cross_entropy(output, y)
            (loss if scaler is None else scaler.scale(loss)).backward()
            passes[0] += 1
            return loss

        before = [weights(model), copy.deepcopy(optimizer.state_dict()["state"])]
        if call == "step":
            optimizer.step(closure, None, closure)
        elif call == "micro":
            optimizer.step_micro([closure, lambda: closure(1)])
        else:
            closure()
            optimizer.ascend()
            closure()
            optimizer.descend()
        if scaler is not None:
            scales.append(scaler.get_scale())
            scaler.update()
        if optimizer.num_nonfinite > len(skipped):
            skipped.append(k)
            assert same(weights(model), before[0])
            after = optimizer.state_dict()["state"]
            for i, entry in before[1].items():
                for key in entry.keys() - {"full_gradient"}:
                    assert torch.equal(torch.as_tensor(after[i][key]), torch.as_tensor(entry[key]))
    return weights(model), scales, skipped


def growing():
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)


CALLS = [(make, call) for make in (SAM, FSAM) for call in ("step", "micro", "two phases")] + [(RandomSAM, "step")]


@pytest.mark.parametrize(("make", "call"), CALLS)
def test_a_scale_that_changes_changes_nothing(make, call):
    """Scales are powers of two, so that scaling and unscaling are exact."""
    plain, _, _ = scaled_run(make, None, call=call)
    scaled, scales, _ = scaled_run(make, growing(), call=call)
    assert len(set(scales)) > 2
    assert same(scaled, plain)


def test_the_full_gradient_and_steps_without_perturbation_are_unscaled_too():
    assert same(scaled_run(SAMComponent, growing())[0], scaled_run(SAMComponent, None)[0])
    assert same(scaled_run(FSAM, growing(), every=3)[0], scaled_run(FSAM, None, every=3)[0])


def test_a_disabled_scaler_is_no_scaler():
    assert same(scaled_run(FSAM, torch.amp.GradScaler("cpu", enabled=False))[0], scaled_run(FSAM, None)[0])


@pytest.mark.parametrize("overflow", [4, 5], ids=["ascent", "descent"])
def test_an_overflow_in_either_pass_skips_the_step_and_backs_off(overflow):
    _, scales, skipped = scaled_run(FSAM, growing(), overflow_in=(overflow,))
    assert skipped == [2]
    assert scales[3] == scales[2] / 2


@pytest.mark.parametrize("overflow", [8, 9, 10, 11])
@pytest.mark.parametrize("make", [SAM, FSAM])
def test_an_overflow_in_one_micro_batch_skips_the_step_and_backs_off(make, overflow):
    _, scales, skipped = scaled_run(make, growing(), overflow_in=(overflow,), call="micro")
    assert skipped == [2]
    assert scales[3] == scales[2] / 2


def test_an_overflow_in_a_step_that_does_not_perturb():
    _, scales, skipped = scaled_run(FSAM, growing(), overflow_in=(2,), every=3)
    assert skipped == [1]
    assert scales[2] == scales[1] / 2


def test_a_scaler_needs_the_check_for_overflows():
    with pytest.raises(ConfigError, match="skip_nonfinite"):
        SAM(network().parameters(), lr=0.1, grad_scaler=growing(), skip_nonfinite=False)


# losses


def test_a_float_is_a_loss():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM([w], lr=0.1)

    def closure():
        w.grad = torch.ones(2)
        return 0.25

    loss = optimizer.step(closure)
    assert isinstance(loss, torch.Tensor)
    assert float(loss) == float(optimizer.scalars["loss_perturbed"]) == 0.25
    assert float(optimizer.step_micro([closure, closure])) == 0.25
    inf = SAM([w], lr=0.1)
    losses = iter([1.0, math.inf])
    before = w.detach().clone()
    inf.step(lambda: (closure(), next(losses))[1])
    assert torch.equal(w, before)
    assert inf.num_nonfinite == 1


@pytest.mark.parametrize("value", [None, "1", torch.ones(3)], ids=["None", "text", "vector"])
@pytest.mark.parametrize("make", [SAM, RandomSAM])
@pytest.mark.parametrize("every", [1, 2])
def test_what_is_no_loss_is_said_in_one_line(value, make, every):
    w = nn.Parameter(torch.ones(2))
    optimizer = make([w], lr=0.1, every=every)
    optimizer.num_steps = 1

    def closure():
        w.grad = torch.ones(2)
        return value

    with pytest.raises(TypeError, match="it has to return the loss"):
        optimizer.step(closure)
    assert torch.equal(w, torch.ones(2))
    optimizer.state_dict()


# types

STEPS = 4
MAKERS = {
    "sam": (SAM, {}),
    "asam": (ASAM, {"adaptive_form": "all"}),
    "fsam": (FSAM, {}),
    "fasam": (FASAM, {"adaptive_form": "all"}),
    "sam_noise": (SAMNoise, {}),
    "sam_component": (SAMComponent, {}),
    "random": (RandomSAM, {}),
}


def trained(make, keywords, tensors, foreach, gradients):
    """Return the parameters, the perturbed ones too, after steps with given gradients; and the scalars."""
    params = [nn.Parameter(t.clone()) for t in tensors]
    optimizer = make(torch.optim.SGD(params, lr=0.1), rho=0.3, foreach=foreach, **keywords)
    optimizer.record_scalars = True
    seen, scalars = [], []
    for k in range(STEPS):
        calls = []

        def closure(k=k, calls=calls):
            for p, g in zip(params, gradients(k)):
                p.grad = g.to(p.dtype).clone()
            calls.append(1)
            seen.append([p.detach().clone() for p in params])
            return 1.0

        full = lambda: [setattr(p, "grad", g.to(p.dtype)) for p, g in zip(params, gradients(99))]  # noqa: E731
        optimizer.step(closure, None, full)
        scalars.append({key: float(v) for key, v in optimizer.scalars.items()})
    return seen, scalars


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("random", "asam", "fasam")])
def test_complex_parameters_are_their_real_pairs(name, foreach):
    """Norms and inner products are those of real and imaginary parts side by side."""
    make, keywords = MAKERS[name]

    def drawn(k):
        generator = torch.Generator().manual_seed(k)
        return [torch.randn(n, dtype=torch.complex128, generator=generator) for n in (5, 3)]

    as_complex, scalars = trained(make, keywords, drawn(1000), foreach, drawn)
    pairs = lambda k: [torch.view_as_real(x) for x in drawn(k)]  # noqa: E731
    as_pairs, of_pairs = trained(make, keywords, pairs(1000), foreach, pairs)
    for xs, ys in zip(as_complex, as_pairs):
        for x, y in zip(xs, ys):
            torch.testing.assert_close(torch.view_as_real(x), y, rtol=1e-12, atol=1e-12)
    for found, expected in zip(scalars, of_pairs):
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("foreach", [True, False])
def test_asam_of_a_complex_parameter_scales_by_its_modulus(foreach):
    w = nn.Parameter(torch.tensor([3 + 4j, 1j]))
    start = w.detach().clone()
    g = torch.tensor([1 + 1j, 2.0 + 0j])
    optimizer = ASAM([w], lr=0.1, rho=0.5, eta=0.25, adaptive_form="all", foreach=foreach)
    w.grad = g.clone()
    optimizer.ascend()
    t = torch.tensor([5.25, 1.25])
    norm = math.sqrt(float((abs(t * g) ** 2).sum()))
    torch.testing.assert_close(w.detach() - start, 0.5 * t**2 * g / norm)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_float64_beside_bfloat16_and_complex(name, foreach):
    """The float64 tensor moves as it would beside a float64 copy of the bfloat16 one, to its own precision."""
    make, keywords = MAKERS[name]

    def drawn(k):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(400, dtype=torch.float64, generator=generator)
        y = torch.randn(5, dtype=torch.bfloat16, generator=generator)
        return [x, y, torch.randn(3, dtype=torch.complex64, generator=generator)]

    mixed, _ = trained(make, keywords, drawn(1000), foreach, drawn)
    wide = lambda k: [t.to(torch.complex128 if t.is_complex() else torch.float64) for t in drawn(k)]  # noqa: E731
    exact, _ = trained(make, keywords, wide(1000), foreach, wide)
    assert mixed[0][0].dtype == torch.float64
    assert mixed[0][1].dtype == torch.bfloat16
    if name == "random":  # other types, other draws
        return
    for xs, ys in zip(mixed, exact):
        torch.testing.assert_close(xs[0], ys[0], rtol=0, atol=2e-4)
        torch.testing.assert_close(xs[1].double(), ys[1], rtol=2e-2, atol=2e-2)
    assert not torch.equal(mixed[1][0], mixed[0][0])


@pytest.mark.parametrize("foreach", [True, False])
def test_the_norm_beside_bfloat16_keeps_float64(foreach):
    """In float32 it would be off by 1e-8."""
    w, v = nn.Parameter(torch.zeros(1, dtype=torch.float64)), nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = SharpnessAware(torch.optim.SGD([w, v], lr=0.1), rho=1.0, foreach=foreach)
    w.grad, v.grad = torch.tensor([0.1], dtype=torch.float64), torch.tensor([2.0], dtype=torch.bfloat16)
    optimizer.ascend()
    assert w.item() == pytest.approx(0.1 / math.sqrt(0.01 + 4), rel=1e-15)
