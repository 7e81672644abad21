"""The formulas behind docs/theory.md: exact moments, the bound, fitted slopes; and the scripts that draw."""

from __future__ import annotations

import itertools
import math
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import ROOT

BENCHMARKS = ROOT / "benchmarks"
Q = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "quadratic.py")))
KEYS = ("error", "old", "noise", "drift", "full", "batch")


def made(curvatures, num_samples, start_square=1.0, seed=0):
    """Return a quadratic loss with Gaussian deviations of the samples, of mean zero."""
    g = torch.Generator().manual_seed(seed)
    h = torch.tensor(curvatures, dtype=torch.float64)
    z = torch.randn(num_samples, len(h), generator=g, dtype=torch.float64)
    x = torch.randn(len(h), generator=g, dtype=torch.float64)
    return Q.Quadratic(h, z - z.mean(0), x * (start_square / float(x.square().sum())) ** 0.5)


# ---------------------------------------------------------------------------------- exact moments


def enumerated(hessian, minimum, centres, w, training, sequences):
    """Return mean squares over all index sequences (S, T) of batches of one sample, in the coordinates of the weights.

    Sample i has the loss 1/2 (w - c_i)' H (w - c_i), so that the minimum is the mean of the centres c_i.
    """
    lr, lmbda, momentum = training.lr, training.lmbda, training.momentum
    w = w.expand(len(sequences), -1)
    m, v, still = (w - minimum) @ hessian, torch.zeros_like(w), None
    found = {key: [] for key in KEYS}
    for t in range(sequences.shape[1]):
        full = (w - minimum) @ hessian
        g = (w - centres[sequences[:, t]]) @ hessian
        old = m
        m = g if t == 0 else lmbda * m + (1 - lmbda) * g
        still = g - full if still is None else lmbda * still + (1 - lmbda) * (g - full)
        now = {
            "error": m - full,
            "old": old - full,
            "noise": still,
            "drift": m - full - still,
            "full": full,
            "batch": g,
        }
        for key, value in now.items():
            found[key].append(float(value.square().sum(1).mean()))
        v = momentum * v + g
        w = w - lr * v
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("shuffled", [False, True])
def test_exact_moments_are_the_mean_over_all_orders_of_the_samples(shuffled, momentum):
    angle = torch.tensor(0.6, dtype=torch.float64)
    vectors = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    h = torch.tensor([0.4, 1.3], dtype=torch.float64)
    hessian = vectors.T @ torch.diag(h) @ vectors
    g = torch.Generator().manual_seed(3)
    centres, w = torch.randn(3, 2, generator=g, dtype=torch.float64), torch.randn(2, generator=g, dtype=torch.float64)
    minimum, training, num_steps = centres.mean(0), Q.Training(0.8, 0.6, momentum), 5
    if shuffled:
        orders = list(itertools.permutations(range(3)))
        sequences = [[*one, *other][:num_steps] for one in orders for other in orders]
    else:
        sequences = list(itertools.product(range(3), repeat=num_steps))
    found = enumerated(hessian, minimum, centres, w, training, torch.tensor(sequences))
    quadratic = Q.Quadratic(h, -(centres - minimum) @ hessian @ vectors.T, (w - minimum) @ hessian @ vectors.T)
    exact = Q.exact(quadratic, Q.Batches(3, 1, shuffled), training, num_steps)
    for key in KEYS:
        assert exact[key].tolist() == pytest.approx(found[key], rel=1e-12, abs=1e-12), key


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("momentum", [0.0, pytest.param(0.9, marks=pytest.mark.long)])
def test_the_optimizer_has_the_exact_error(shuffled, momentum):
    quadratic, training, batches = made([0.1, 0.5, 1.0], 24), Q.Training(0.1, 0.8, momentum), Q.Batches(24, 4, shuffled)
    squares = Q.simulate(quadratic, batches, training, 30, range(1000))["error"]
    standard_error = squares.std(0) / len(squares) ** 0.5
    exact = Q.exact(quadratic, batches, training, 30)["error"]
    assert float(((squares.mean(0) - exact) / standard_error).abs().max()) < 4
    assert float((standard_error / exact).max()) < 0.06  # or else nothing would be shown
    other = Q.exact(quadratic, Q.Batches(24, 4, not shuffled), training, 30)["error"]
    assert float(((squares.mean(0) - other) / standard_error).abs().max()) > 5


def test_without_a_learning_rate_the_error_is_the_variance_that_diagnostics_predicts():
    from fsamlab.axes.reference import ema_weights
    from fsamlab.diagnostics.noise import Sampling, ema_variance

    quadratic, num_steps = made([0.3, 1.0], 40), 17
    found = Q.exact(quadratic, Q.Batches(40, 5, True), Q.Training(0.0, 0.9), num_steps)
    trace = float(quadratic.noise.sum()) * 40 / 39  # the unbiased estimate, as diagnostics has it
    weights = ema_weights(num_steps, 0.9, "first_gradient")
    predicted = ema_variance(weights, torch.arange(num_steps), Sampling(40, 5, 8), trace_sigma=trace)
    assert float(found["error"][-1]) == pytest.approx(predicted, rel=1e-12)
    assert float(found["drift"][-1]) == pytest.approx(0, abs=1e-12)


def test_at_the_minimum_the_ema_points_against_the_full_gradient():
    """Stationary SGD, one direction, s = lr h: E<m_{t-1}, x_t> = -(1 - lmbda) E x^2 / (1 - (1 - s) lmbda)."""
    quadratic, s, lmbda = made([1.0], 8, start_square=0.0), 0.2, 0.9
    batches, training, num_steps = Q.Batches(8, 2, False), Q.Training(s, lmbda), 200
    noise = float(quadratic.noise[0]) / 2
    x = noise * s / (2 - s)
    product = -(1 - lmbda) * x / (1 - (1 - s) * lmbda)
    m = (2 * lmbda * (1 - lmbda) * product + (1 - lmbda) ** 2 * (x + noise)) / (1 - lmbda**2)
    found = Q.exact(quadratic, batches, training, num_steps)
    assert float(found["full"][-1]) == pytest.approx(x, rel=1e-9)
    assert float(found["batch"][-1]) == pytest.approx(noise * 2 / (2 - s), rel=1e-9)
    assert float(found["old"][-1]) == pytest.approx(m - 2 * product + x, rel=1e-9)
    cosine = float(Q.cosine(quadratic, batches, training, num_steps)[-1])
    assert cosine == pytest.approx(product / math.sqrt(m * x), rel=1e-9)
    assert cosine < -0.6


def test_batches_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="size 3 does not divide the number of samples, 8"):
        Q.Batches(8, 3, True)


# ---------------------------------------------------------------------------------- the bound


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    curvatures=st.lists(st.floats(1e-3, 1), min_size=1, max_size=3),
    s=st.floats(0, 1.99),
    lmbda=st.floats(0, 0.999),
    start_square=st.floats(0, 100),
    size=st.sampled_from([1, 2, 6]),
    shuffled=st.booleans(),
)
def test_the_bound_is_never_below_the_exact_error(curvatures, s, lmbda, start_square, size, shuffled):
    quadratic, batches = made(curvatures, 12, start_square), Q.Batches(12, size, shuffled)
    training = Q.Training(s / max(curvatures), lmbda)
    exact = Q.exact(quadratic, batches, training, 40)["error"]
    bound = Q.bound(quadratic, batches, training, 40)
    assert (exact <= bound * (1 + 1e-9) + 1e-12).all()


def test_the_bound_is_the_error_itself_if_the_weights_stand_still():
    quadratic, batches = made([0.2, 1.0], 12), Q.Batches(12, 3, False)
    exact = Q.exact(quadratic, batches, Q.Training(0.0, 0.9), 30)["error"]
    assert Q.bound(quadratic, batches, Q.Training(0.0, 0.9), 30).tolist() == pytest.approx(exact.tolist(), rel=1e-12)


def test_the_bound_holds_for_the_trajectory_of_fsam():
    quadratic, batches, rho = made([0.05, 1.0], 12, 4.0), Q.Batches(12, 3, True), 0.5
    training = Q.Training(0.2, 0.9)
    plain, perturbed = (Q.simulate(quadratic, batches, training, 24, range(12), r) for r in (1e-9, rho))
    full = math.sqrt(float(perturbed["full"].mean(0).max()))
    bound = Q.bound(quadratic, batches, training, 24, full, rho)
    assert (perturbed["error"].mean(0)[1:] <= bound[1:]).all()  # at step 0 the bound is the expected value itself
    assert float((perturbed["error"] - plain["error"]).abs().max()) > 0.05  # another trajectory


@pytest.mark.parametrize(("lr", "momentum", "rho"), [(2.0, 0.0, 0.0), (0.1, 0.9, 0.0), (0.1, 0.0, 0.5)])
def test_no_bound_is_given_where_none_was_derived(lr, momentum, rho):
    with pytest.raises(ValueError, match="the bound needs momentum 0, lr < 2 / L"):
        Q.bound(made([1.0], 4), Q.Batches(4, 2, True), Q.Training(lr, 0.9, momentum), 4, None, rho)


# ---------------------------------------------------------------------------------- slopes, and the scripts


def script(name, monkeypatch):
    """Return the global names of a script in benchmarks/, as its functions see them."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = runpy.run_path(str(BENCHMARKS / name))
    return names, names["draw_figure"].__wrapped__.__globals__


def test_slopes_of_power_laws(monkeypatch):
    names, _ = script("convergence.py", monkeypatch)
    x = [10, 40, 160, 640]
    assert names["slope"](x, [3 * t**-0.7 for t in x]) == pytest.approx(-0.7, abs=1e-12)
    noise = np.random.default_rng(0).normal(0, 0.1, (400, len(x)))
    fits = [names["slope"](x, np.exp(e) * np.array(x) ** -0.5) for e in noise]
    middle, half = names["interval"](fits)
    spread = 0.1 / np.log(x).std() / math.sqrt(len(x))  # of a least squares slope
    assert half == pytest.approx(1.966 * spread / math.sqrt(len(fits)), rel=0.15)
    assert middle == pytest.approx(-0.5, abs=2 * half)


def test_the_smooth_problem_is_what_the_page_says(monkeypatch):
    names, _ = script("convergence.py", monkeypatch)
    problem = names["Problem"]()
    w = torch.randn(5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(w):
        return torch.sigmoid(-(problem.samples @ w)).mean() + names["MU"] / 2 * w.square().sum()

    for one in [problem.start, *w]:
        gradient, hessian = torch.func.grad(loss)(one), torch.autograd.functional.hessian(loss, one)
        assert torch.allclose(problem.gradient(problem.samples, one), gradient, atol=1e-12)
        assert torch.allclose(problem.hessian(one), hessian, atol=1e-12)
        assert float(torch.linalg.eigvalsh(hessian).abs().max()) <= problem.smoothness
    assert float(torch.linalg.eigvalsh(problem.hessian(problem.start))[0]) < -0.01
    paths = {m: names["squares"](problem, m, 12, 1 / problem.smoothness, 0.5, 0) for m in names["OPTIMIZERS"]}
    assert len({float(path[0]) for path in paths.values()}) == 1
    assert len({float(path[-1]) for path in paths.values()}) == 3


def test_the_table_and_the_figure_of_convergence(monkeypatch):
    names, inside = script("convergence.py", monkeypatch)
    inside.update(STEPS=[4, 8, 16], SEEDS=range(2))
    found = names["measure"](names["Problem"]())
    rows = names["table"](found).splitlines()
    assert len(rows) == 2 + 8  # three schedules of three methods; SGD has no constant rho
    assert sum("| SGD |" in row for row in rows) == 2
    assert [len(axes.lines) for axes in names["draw_figure"](found).axes] == [3, 2, 3]


@pytest.mark.long
def test_the_tables_and_the_figure_of_the_error(monkeypatch):
    names, inside = script("ema_error.py", monkeypatch)
    phases = tuple(names["Phase"](f"phase {k}", k, range(2, 4)) for k in (0.0, 4.0))
    inside.update(PHASES=phases, RATES=[0.01, 0.1, 1.0], SIMULATED=[0.01, 1.0], SHOWN=[0.01, 1.0])
    inside.update(LAMBDAS=(0.6, 0.9), SEEDS=range(2), PERTURBED_SEEDS=range(2))
    keys = itertools.product(phases, [0.01, 0.1, 1.0], (0.6, 0.9))
    points = {key: names["at"](key[0], names["Training"](*key[1:]), key[1] != 0.1) for key in keys}
    assert len(names["table_of_checks"](points).splitlines()) == 2 + 4
    assert len(names["table_of_choice"]().splitlines()) == 2 + 4
    assert len(names["draw_figure"](points).axes) == 4
