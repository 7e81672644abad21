"""The pass at w + eps on a part of the batch: ESAM's data selection."""

import pytest
import torch
import torch.nn.functional as F
from support.runs import build_trainer, compose_diabetes
from support.steps import batch
from torch import nn

from fsamlab.config import ConfigError
from fsamlab.optim import SampleClosure, SharpnessAware

RHO, LR = 0.5, 0.1


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def losses(model, k, w=None, samples=slice(None)):
    x, y = batch(k)
    x, y = x.double()[samples], y[samples]
    outputs = model(x) if w is None else torch.func.functional_call(model, w, (x,))
    return F.cross_entropy(outputs, y, reduction="none")


def train(model, optimizer, steps):
    for k in range(steps):
        optimizer.step(SampleClosure(lambda i, k=k: losses(model, k, samples=i), optimizer.zero_grad))
    return dict(model.named_parameters())


def sharpest(model, **choices):
    base = torch.optim.SGD(model.parameters(), lr=LR)
    return SharpnessAware(base, rho=RHO, model=model, descent="sharpest", **choices)


def rule(gamma, steps, largest=True):
    """SGD with the gradient at w + rho g / |g| of int(gamma n) samples whose losses rose most, or least."""
    model = network()
    w = {name: p.detach().clone() for name, p in model.named_parameters()}

    def gradient(w, k, samples=slice(None)):
        w = {name: x.clone().requires_grad_() for name, x in w.items()}
        return dict(zip(w, torch.autograd.grad(losses(model, k, w, samples).mean(), list(w.values()))))

    for k in range(steps):
        g = gradient(w, k)
        norm = torch.cat([x.flatten() for x in g.values()]).norm()
        moved = {name: x + RHO * g[name] / norm for name, x in w.items()}
        with torch.no_grad():
            rise = losses(model, k, moved) - losses(model, k, w)
        samples = rise.argsort(descending=largest)[: int(gamma * len(rise))]
        h = gradient(moved, k, samples)
        w = {name: x - LR * h[name] for name, x in w.items()}
    return w


def apart(a, b):
    return max(float((a[name] - b[name]).detach().abs().max()) for name in a)


@pytest.mark.parametrize("foreach", [True, False])
def test_the_samples_whose_losses_rose_most(foreach):
    model = network()
    found = train(model, sharpest(model, gamma=0.5, foreach=foreach), 10)
    assert apart(found, rule(0.5, 10)) < 1e-12
    assert apart(found, rule(0.5, 10, largest=False)) > 1e-3
    assert model[1].num_batches_tracked == 10  # three passes a step, and each batch counts once


def test_all_samples_are_sam():
    one, other = network(), network()
    plain = SharpnessAware(torch.optim.SGD(other.parameters(), lr=LR), rho=RHO, model=other)
    assert apart(train(one, sharpest(one, gamma=1.0), 5), train(other, plain, 5)) < 1e-12


def test_a_closure_that_cannot_run_on_a_part_is_refused_before_any_pass():
    model = network()
    optimizer, calls = sharpest(model), []
    with pytest.raises(TypeError, match=r"^descent=sharpest runs .* losses\(\) and on\(indices\)"):
        optimizer.step(lambda: calls.append(1))
    assert not calls
    with pytest.raises(RuntimeError, match=r"^descent=sharpest needs .* use step\(closure"):
        optimizer.ascend()


@pytest.mark.parametrize("failing", ["losses", "on"])
def test_an_exception_in_a_further_pass_leaves_the_weights(failing):
    model = network()
    optimizer = sharpest(model)
    before = [p.detach().clone() for p in model.parameters()]
    closure = SampleClosure(lambda i: losses(model, 0, samples=i), optimizer.zero_grad)

    def fail(*_):
        raise KeyboardInterrupt

    if failing == "losses":
        closure.losses = fail
    else:
        whole = closure.on
        closure.on = lambda samples: whole(samples) if isinstance(samples, slice) else fail()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert all(torch.equal(p, x) for p, x in zip(model.parameters(), before))


def test_an_ascent_without_losses_at_w_is_refused():
    for ascent in ("gaussian", "multi_step"):
        with pytest.raises(ConfigError, match=f"^descent=sharpest: compares .* ascent={ascent}"):
            sharpest(network(), ascent=ascent)


def test_accumulated_gradients_are_those_of_the_same_samples():
    """A perceptron has no norm that would see each part by itself."""
    found = []
    for steps in (1, 4):
        trainer = build_trainer(
            compose_diabetes(
                *("optimizer=esam_swp", "optimizer.descent=sharpest", "optimizer.gamma=0.5"),
                f"train.accumulate_steps={steps}",
            )
        )
        for b in trainer.data.train.batches(0):
            trainer._step(b)
        found.append([p.detach().clone() for p in trainer.model.parameters()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("gamma", "n", "count"), [(0.29, 100, 29), (0.57, 100, 57), (0.5, 7, 3), (0.01, 3, 1)])
def test_the_share_is_not_lost_to_rounding(gamma, n, count):
    descent = sharpest(network(), gamma=gamma).choices.descent
    assert len(descent.select(torch.zeros(n), torch.arange(n, dtype=torch.float64))) == count
