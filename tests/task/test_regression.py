"""Regression: loss, gradient and metrics against formulas, and the sharpness of a linear model."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fsamlab.diagnostics import Objective, hessian_eigenvalues, measuring
from fsamlab.task import Classification, Regression, Samples


def linear():
    gen = torch.Generator().manual_seed(3)
    x = torch.randn(12, 3, generator=gen, dtype=torch.float64)
    y = torch.randn(12, 1, generator=gen, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, 3, generator=gen))
    return model, Samples(x, y)


def test_loss_and_gradient_are_those_of_least_squares():
    model, samples = linear()
    task = Regression()
    outputs = task.forward(model, samples)
    residual = samples.inputs @ model.weight.detach().T - samples.targets
    torch.testing.assert_close(task.losses(outputs, samples), residual[:, 0] ** 2)
    (gradient,) = torch.autograd.grad(task.loss(outputs, samples), model.weight)
    torch.testing.assert_close(gradient, 2 / 12 * residual.T @ samples.inputs)


def test_the_values_of_a_sample_share_its_loss_equally():
    samples = Samples(torch.zeros(2, 1), torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    outputs = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
    assert Regression().losses(outputs, samples).tolist() == [5.0, 2.0]


def test_mse_and_r2_over_several_batches_are_those_of_the_whole():
    _, samples = linear()
    outputs = samples.targets + 0.1 * samples.inputs[:, :1]
    task = Regression()
    sums: dict = {}
    for part in (slice(0, 5), slice(5, 12)):
        one = Samples(samples.inputs[part], samples.targets[part])
        for key, value in task.metrics(outputs[part], one).items():
            sums[key] = sums.get(key, 0) + value
    found = task.values({key: float(value) / 12 for key, value in sums.items()})
    error, y = (outputs - samples.targets).numpy(), samples.targets.numpy()
    assert found == pytest.approx({"mse": np.mean(error**2), "r2": 1 - np.mean(error**2) / np.var(y)}, rel=1e-12)
    assert found.keys() == task.metric_names.keys()
    assert task.values({"mse": 0.5, "target": 2.0, "target_square": 4.0}) == {"mse": 0.5}  # all targets equal


def test_outputs_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"outputs of shape \(4,\) for targets of shape \(4, 1\)"):
        Regression().losses(torch.zeros(4), Samples(torch.zeros(4, 2), torch.zeros(4, 1)))


def test_lower_error_is_better():
    assert Regression().is_better(0.1, than=0.2)
    assert not Regression().is_better(0.2, than=0.2)
    assert Regression().is_better(5.0, than=math.nan)
    assert not Regression().is_better(math.nan, than=5.0)


def test_the_curvature_of_least_squares_is_measured():
    model, samples = linear()
    with measuring(model):
        objective = Objective(
            model, [(samples.inputs[:5], samples.targets[:5]), (samples.inputs[5:], samples.targets[5:])], Regression()
        )
        loss, gradient = objective.loss(), objective.gradient()[0]
        found = hessian_eigenvalues(objective, tolerance=1e-9, seed=0)
    hessian = 2 / 12 * samples.inputs.T @ samples.inputs
    residual = samples.inputs @ model.weight.detach().T - samples.targets
    assert loss == pytest.approx(residual.square().mean().item(), rel=1e-12)
    torch.testing.assert_close(gradient, (2 / 12 * residual.T @ samples.inputs)[0])
    assert found.top[0] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-6)


def test_an_objective_of_a_float32_model_takes_the_losses_in_float64():
    model = nn.Linear(3, 4)
    x, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4
    with measuring(model):
        task = Objective(model, [(x, labels)], Classification(0.1))
        function = Objective(
            model,
            [(x, labels)],
            lambda o, t: nn.functional.cross_entropy(o.double(), t, reduction="none", label_smoothing=0.1),
        )
        assert torch.equal(task.losses(), function.losses())
        assert torch.equal(task.gradient()[0], function.gradient()[0])
        soft = torch.nn.functional.one_hot(labels, 4).float()  # probabilities in float32 are cast too
        torch.testing.assert_close(Objective(model, [(x, soft)], Classification(0.1)).losses(), task.losses())
