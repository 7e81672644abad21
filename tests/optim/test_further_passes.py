"""Variants with further passes: scaled gradients, and a step that ends early in any of its passes."""

import pytest
import torch
from support.steps import sample_closure_of
from torch import nn

from fsamlab.optim import SharpnessAware

CASES = {
    "multi_step": {"ascent": "multi_step", "ascent_steps": 3},
    "lookbehind": {"ascent": "multi_step", "ascent_steps": 3, "descent": "lookbehind"},
    "sharpest": {"descent": "sharpest"},
    "some_tensors": {"ascent": "some_tensors"},
    "mixed": {"ascent": "filter_gaussian_beside", "metric": "unnormalised", "descent": "mixed"},
    "momentum": {"ascent": "momentum"},
}


def made(name, scaler=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, SharpnessAware(base, rho=0.1, model=model, grad_scaler=scaler, **CASES[name])


def closure_of(model, optimizer, k, scaler=None):
    return sample_closure_of(model, k, optimizer.zero_grad, scaler.scale if scaler is not None else None)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", CASES)
def test_scaled_gradients_change_nothing(name):
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=64.0)):
        model, optimizer = made(name, scaler)
        for k in range(5):
            optimizer.step(closure_of(model, optimizer, k, scaler))
            if scaler is not None:
                scaler.update()
        found.append(weights(model))
    assert torch.equal(*found)


@pytest.mark.parametrize("failing", range(4))
@pytest.mark.parametrize("ending", ["exception", "not finite"])
@pytest.mark.parametrize("name", ["multi_step", "lookbehind"])
def test_a_step_that_ends_in_any_pass_leaves_the_weights(name, ending, failing):
    model, optimizer = made(name)
    optimizer.step(closure_of(model, optimizer, 0))
    before, passes = weights(model), []
    closure = closure_of(model, optimizer, 1)

    def ends():
        passes.append(1)
        found = closure()
        if len(passes) == failing + 1:
            if ending == "exception":
                raise KeyboardInterrupt
            next(model.parameters()).grad.fill_(float("nan"))
        return found

    if ending == "exception":
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(ends)
    else:
        optimizer.step(ends)
        assert optimizer.num_nonfinite == 1
    assert len(passes) == failing + 1
    assert torch.equal(weights(model), before)
    assert not optimizer._path


KEEPS = {
    "rescaled": {"descent": "rescaled"},
    "surrogate_gap": {"descent": "surrogate_gap"},
    "weighted": {"descent": "weighted"},
    "mixed": CASES["mixed"],
    "lookbehind": CASES["lookbehind"],
}


@pytest.mark.parametrize("noise", [False, True], ids=["radius of 0", "perturbed"])
@pytest.mark.parametrize("name", KEEPS)
def test_a_gradient_that_the_ascent_does_not_see_is_checked_too(name, noise):
    """The ascent takes the norm of what perturbs; a descent reads the gradients of all parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "rho": 0.1 if noise else 0.0}]
    optimizer = SharpnessAware(torch.optim.SGD(groups, lr=0.05), rho=0.1, model=model, **KEEPS[name])
    before, passes = weights(model), []
    closure = closure_of(model, optimizer, 1)

    def overflows():
        passes.append(1)
        found = closure()
        if len(passes) == (2 if name == "lookbehind" else 1):  # which reads the gradients after the first
            model[2].weight.grad[0, 0] = float("inf")
        return found

    optimizer.step(overflows)
    assert optimizer.num_nonfinite == 1
    assert torch.equal(weights(model), before)
