"""Lanczos on known spectra, and the Hessian's eigenvalues, trace and Rayleigh quotients on dense ones."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.marks import long_but
from torch import nn
from torch.func import functional_call

from fsamlab.diagnostics import Objective, along, hessian_eigenvalues, measuring, trace
from fsamlab.diagnostics.curvature import spectrum
from fsamlab.diagnostics.lanczos import eigenvalues

F64 = torch.float64
LINE = list(np.linspace(-1, 1, 60))


def matrix(values, seed=0):
    """Return a symmetric matrix (n, n) with these eigenvalues and random eigenvectors."""
    g = torch.Generator().manual_seed(1000 + seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=F64))
    a = (q * torch.tensor(values, dtype=F64)) @ q.T
    return (a + a.T) / 2


def lanczos(a, **how):
    """Run it on a matrix, or on a diagonal given as a vector."""
    return eigenvalues((lambda v: a @ v) if a.dim() == 2 else (lambda v: a * v), a if a.dim() == 1 else a[0], **how)


def errors(found, values, tolerance):
    """Return the true errors of all values in units of what the tolerance allows, and those in units of the bounds."""
    values = np.sort(values)
    truth = np.array([*values[::-1][: len(found.top)], *values[: len(found.bottom)]])
    error = np.abs(truth - [*found.top, *found.bottom])
    radius = np.abs(values).max()
    bounds = np.array([*found.top_errors, *found.bottom_errors])
    return error / (tolerance * np.maximum(np.abs(truth), 1e-3 * radius)), error / (bounds + 1e-12 * radius)


# -------------------------------------------------------------------------------- known spectra

SPECTRA = {
    "decay": [10 * 0.8**k for k in range(60)],
    "outliers": [30, 12, 8, 5, 4, *LINE],
    "negative": [-50, -20, 3, *LINE],
    "two_ends": [-9, -7, 9, 7, *LINE],
    "definite": [-30, -12, -8, -5, *np.linspace(-2, -1, 60)],
    "tiny": [1e-9 * x for x in (30, 12, 8, *LINE)],
    "huge": [1e9 * x for x in (30, 12, 8, *LINE)],
}
NO_CLUSTER = [name for name in SPECTRA if name != "decay"]  # at the lower end
WANTED = {"top": (1, 0), "bottom": (0, 1), "both": (1, 1), "three": (3, 1)}
EASY = [(name, "top") for name in ("decay", "outliers", "tiny", "huge")] + [("negative", "bottom")]


def runs(name, wanted, tolerance, seeds):
    """Return the largest errors of each run in units of the tolerance, and of the bounds, checking its form."""
    num_top, num_bottom = WANTED[wanted]
    found = []
    for seed in range(seeds):
        a = matrix(SPECTRA[name], seed)
        e = lanczos(a, num_top=num_top, num_bottom=num_bottom, tolerance=tolerance, seed=seed, max_steps=200)
        assert e.converged
        assert len(e.top) == len(e.top_errors) == num_top
        assert len(e.bottom) == len(e.bottom_errors) == num_bottom
        assert e.top == sorted(e.top, reverse=True)
        assert e.bottom == sorted(e.bottom)
        assert e.num_products >= 4
        found.append([x.max() for x in errors(e, SPECTRA[name], tolerance)])
    return np.array(found).T


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize(("name", "wanted"), EASY)
def test_errors_of_outliers_are_below_tolerance_and_bound(name, wanted, tolerance):
    of_allowed, of_bound = runs(name, wanted, tolerance, 20)
    assert of_allowed.max() <= 1
    assert of_bound.max() <= 1.5  # it goes by the gaps among what was found, so it is nearly a bound


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("name", long_but(("outliers",), NO_CLUSTER))
def test_few_starts_miss_the_tolerance(name, wanted):
    """A start that is nearly orthogonal to an eigenvector can miss it, which no residual tells."""
    for tolerance in (1e-3, 1e-6):
        of_allowed, of_bound = runs(name, wanted, tolerance, 20)
        assert (of_allowed > 1).mean() <= 0.15
        assert (of_bound > 1.5).mean() <= 0.2
        assert np.median(of_allowed) < 0.7


def test_bounds_follow_the_error():
    """They are bounds with some meaning: not far above what they bound either."""
    assert 0.1 < np.median(runs("outliers", "top", 1e-4, 30)[1]) < 1


def test_the_smallest_eigenvalue_is_not_the_one_of_largest_magnitude():
    """Power iteration would return -50 for the largest eigenvalue, and 50 for a norm."""
    a = matrix(SPECTRA["negative"])
    v = torch.randn(len(a), dtype=F64)
    for _ in range(200):
        v = a @ v / (a @ v).norm()
    assert (v @ a @ v).item() == pytest.approx(-50)
    found = lanczos(a, num_top=1, num_bottom=2, tolerance=1e-6)
    assert found.top == pytest.approx([3], rel=1e-6)
    assert found.bottom == pytest.approx([-50, -20], rel=1e-6)


def test_a_dense_spectrum_gives_eigenvalues_and_rarely_skips_one():
    """A start that is nearly orthogonal to an eigenvector may miss it: what is found is an eigenvalue anyway."""
    missed = 0
    for seed in range(60):
        values = np.sort(np.random.default_rng(seed).standard_normal(150))
        found = lanczos(torch.tensor(values), seed=seed, tolerance=1e-3)
        assert found.converged
        assert np.abs(values - found.top[0]).min() < 2e-3 * found.top[0]
        missed += abs(values[-1] - found.top[0]) > 1e-3 * values[-1]
    assert missed <= 0.1 * 60


def test_a_cluster_narrower_than_the_tolerance():
    values = [10, 9.999, 9.998, *np.linspace(0, 5, 57)]
    for seed in range(20):
        found = lanczos(matrix(values, seed), tolerance=1e-3, seed=seed)
        assert found.converged
        assert errors(found, values, 1e-3)[0].max() <= 1.2


def test_two_close_eigenvalues_are_not_mistaken_for_one():
    """Strictly converged to 1e-3, with a neighbour 1 % below; the default rule may stop between the two."""
    values = torch.tensor([10, 9.9, *np.linspace(0, 5, 98)], dtype=F64)
    found = [lanczos(values, tolerance=1e-3, seed=seed, strict=True) for seed in range(40)]
    assert all(e.converged for e in found)
    assert sum(10 - e.top[0] > 1e-3 * 10 for e in found) <= 2  # a start may have next to no part in the first
    quick = [lanczos(values, tolerance=1e-3, seed=seed) for seed in range(40)]
    assert 2 < sum(10 - e.top[0] > 1e-3 * 10 for e in quick) < 15
    assert all(9.85 < e.top[0] <= 10 + 1e-9 for e in quick)


def test_strict_bounds_are_residuals():
    a = matrix([9, 7, 5, *np.linspace(-1, 1, 57)])
    found = lanczos(a, num_top=2, tolerance=1e-2, strict=True, with_vectors=True)
    for value, bound, vector in zip(found.top, found.top_errors, found.vectors):
        residual = float((a @ vector - value * vector).norm())
        assert 0.5 * bound <= residual <= bound * (1 + 1e-9)
        assert bound <= 1e-2 * value
    assert found.num_products >= lanczos(a, num_top=2, tolerance=1e-2).num_products


def test_an_operator_that_is_not_finite_has_no_eigenvalues():
    found = eigenvalues(lambda v: v * math.nan, torch.zeros(20, dtype=F64), num_top=2, num_bottom=1)
    assert not found.converged
    assert all(math.isnan(x) for x in (*found.top, *found.bottom, *found.top_errors))


MULTIPLE = {
    "pairs": [5, 5, 1, 1],
    "triple": [5.0] * 3 + [1.0] * 20,
    "identity": [1.0] * 30,
    "minus": [-2.0] * 9,
    "zero": [0.0] * 12,
    "low_rank": [7, 3] + [0] * 40,
    "one": [4.0],
    "two": [4.0, -6.0],
}


@pytest.mark.parametrize("name", MULTIPLE)
@pytest.mark.parametrize(("num_top", "num_bottom"), [(1, 0), (0, 1), (1, 1), (2, 2), (3, 0), (5, 1), (9, 9)])
def test_multiple_eigenvalues_and_small_matrices(name, num_top, num_bottom):
    values = MULTIPLE[name]
    ordered = sorted(values)
    for seed in range(4):
        found = lanczos(
            matrix(values, seed), num_top=num_top, num_bottom=num_bottom, seed=seed, tolerance=1e-6, with_vectors=True
        )
        assert found.top == pytest.approx(ordered[::-1][:num_top], rel=1e-9, abs=1e-9)
        assert found.bottom == pytest.approx(ordered[:num_bottom], rel=1e-9, abs=1e-9)
        assert found.converged
        assert found.num_products <= len(values)
        assert all(map(math.isfinite, [*found.top_errors, *found.bottom_errors]))
        assert found.vectors.isfinite().all()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("copies", "num_top", "num_bottom"), [(2, 2, 1), (5, 5, 1), (3, 4, 2), (9, 6, 0)])
def test_repeated_eigenvalues_above_a_bulk(copies, num_top, num_bottom, strict):
    """One start sees one direction of each: the residual of the next distinct eigenvalue says nothing of the copies."""
    values = np.array([5.0] * copies + [4.0] + [-3.0] * 2 + list(np.linspace(-1, 1, 150)))
    how = {"num_top": num_top, "num_bottom": num_bottom, "tolerance": 1e-4, "strict": strict, "max_steps": 130}
    for seed in range(10):
        found = lanczos(torch.tensor(values), seed=seed, **how)
        assert found.converged
        assert errors(found, values, 1e-4)[0].max() <= 1


def test_an_eigenvector_that_the_start_has_no_part_in():
    values = torch.tensor([9.0, 8.0, 7.0, *np.linspace(-1, 1, 100)], dtype=F64)
    start = torch.ones_like(values)
    start[1] = 0
    found = lanczos(values, num_top=2, num_bottom=1, strict=True, start=start, tolerance=1e-4)
    assert found.converged
    assert found.top == pytest.approx([9, 8], rel=1e-4)
    assert lanczos(values, start=start).num_products < found.num_products  # the largest alone, quickly: one search


def test_what_was_not_searched_twice_has_not_converged():
    values = torch.tensor([5.0, 5.0, 4.0, *np.linspace(-1, 1, 100)], dtype=F64)
    whole = lanczos(values, num_top=2, num_bottom=1, strict=True)
    short = lanczos(values, num_top=2, num_bottom=1, strict=True, max_steps=whole.num_products - 1)
    assert whole.converged
    assert not short.converged


def test_relative_error_goes_by_what_the_tolerance_goes_by():
    """An eigenvalue of zero has no relative error: its error counts against 1e-3 of the spectral radius."""
    found = lanczos(torch.tensor([100.0] + [0.0] * 200, dtype=F64), num_top=1, num_bottom=1, strict=True)
    assert found.converged
    assert found.relative_error <= 1e-3
    values = torch.tensor([100.0, *np.linspace(0, 20, 200)], dtype=F64)
    for tolerance in (1e-2, 1e-3):
        for steps in (8, 12, 20, 40):
            how = {"num_top": 3, "num_bottom": 1, "strict": True, "max_steps": steps}
            found = lanczos(values, tolerance=tolerance, **how)
            assert not found.converged or found.relative_error <= tolerance
            allowed = [max(abs(v), 1e-3 * found.radius) for v in (*found.top, *found.bottom)]
            relative = [e / a for e, a in zip((*found.top_errors, *found.bottom_errors), allowed)]
            assert found.relative_error == pytest.approx(max(relative))


def test_exhausting_the_space_is_exact():
    values = np.random.default_rng(0).standard_normal(25)
    found = lanczos(matrix(values), num_top=25, tolerance=1e-14)
    assert found.num_products == 25
    assert found.converged
    assert found.top == pytest.approx(np.sort(values)[::-1], abs=1e-12)
    assert found.top_errors == [0.0] * 25


@pytest.mark.parametrize("max_steps", [1, 2, 3, 6])
def test_too_few_steps_are_reported(max_steps):
    values = [10 * 0.97**k for k in range(100)]
    found = lanczos(torch.tensor(values, dtype=F64), max_steps=max_steps, num_top=2, num_bottom=1)
    assert not found.converged
    assert found.num_products == max_steps
    assert errors(found, values, 1)[0].max() > 1e-3
    assert max(found.top_errors) > 1e-3 * 10
    one = lanczos(torch.tensor(values, dtype=F64), max_steps=2)
    assert not one.converged


# -------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-20])
def test_large_operators_with_small_eigenvalues(scale):
    """An absolute tolerance would accept any vector at once: its residual is about 1e-2 scale, or 1e-22."""
    n, g = 20_000, torch.Generator().manual_seed(0)
    values = torch.rand(n, generator=g) * scale
    values[[7, 9, 11]] = torch.tensor([8.0, 3.0, -2.0]) * scale
    random = torch.randn(n, generator=g)
    random /= random.norm()
    assert (values * random - (random @ (values * random)) * random).norm() < scale
    for seed in range(5):
        found = lanczos(values, num_top=2, num_bottom=1, seed=seed, tolerance=1e-3)
        assert found.converged
        assert found.num_products >= 4
        assert [x / scale for x in found.top] == pytest.approx([8, 3], rel=1e-3)
        assert found.bottom[0] / scale == pytest.approx(-2, rel=1e-3)
        assert lanczos(values, seed=seed, tolerance=0.3).num_products >= 4  # however loose the tolerance is


def plain_lanczos(a, start, steps):
    """Return the Ritz values of the three-term recurrence without re-orthogonalisation, descending."""
    v, before, beta, alphas, betas = start / start.norm(), torch.zeros_like(start), 0.0, [], []
    for _ in range(steps):
        w = a * v - beta * before
        alpha = (w @ v).item()
        w -= alpha * v
        before, beta = v, w.norm().item()
        alphas.append(alpha)
        betas.append(beta)
        v = w / beta
    return np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))[::-1]


def test_no_ghost_copies_after_a_hundred_steps():
    g = torch.Generator().manual_seed(0)
    values = torch.cat([torch.tensor([100.0, 60.0, 35.0, 20.0, 12.0, -40.0]), torch.rand(3000, generator=g) * 4])
    truth = values.double().sort().values.numpy()
    found = lanczos(values, num_top=8, num_bottom=2, tolerance=1e-12, max_steps=100, with_vectors=True)
    assert found.num_products == 100
    assert found.top[:5] == pytest.approx(truth[::-1][:5], rel=1e-5)
    assert found.bottom[0] == pytest.approx(truth[0], rel=1e-5)
    assert max(found.top[5:]) < 4.01
    gram = found.vectors.double() @ found.vectors.double().T
    assert (gram - torch.eye(10, dtype=F64)).abs().max() < 1e-5
    ghosts = plain_lanczos(values, torch.randn(len(values), generator=g), 100)
    assert ghosts[1] > 99  # the trap: a second copy of the largest


# ------------------------------------------------------------------------------- cost, start, storage


def power_iteration(a, v, truth, tolerance=1e-3):
    """Return the products until the Rayleigh quotient is truly that near."""
    for products in itertools.count(1):
        w = a * v / v.norm()
        if abs((v @ w).item() / v.norm().item() / truth - 1) < tolerance:
            return products
        v = w


def test_far_fewer_products_than_power_iteration():
    values = torch.tensor([10 * 0.97**k for k in range(200)], dtype=F64)
    pairs = []
    for seed in range(10):
        found = lanczos(values, seed=seed, tolerance=1e-3)
        start = torch.randn(200, generator=torch.Generator().manual_seed(seed), dtype=F64)
        pairs.append((found.num_products, power_iteration(values, start, 10)))
    ours, theirs = np.mean(pairs, axis=0)
    assert ours * 3 < theirs


def test_products_are_counted_truly():
    calls = []
    a = matrix(SPECTRA["outliers"])

    def product(v):
        calls.append(1)
        return a @ v

    found = eigenvalues(product, a[0], num_top=2, num_bottom=1)
    assert found.num_products == len(calls)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_vectors(dtype):
    a = matrix([30, 12, 8, -9, *LINE]).to(dtype)
    found = lanczos(a, num_top=3, num_bottom=2, tolerance=1e-10 if dtype == F64 else 1e-4, with_vectors=True)
    assert found.vectors.shape == (5, 64)
    assert found.vectors.dtype == dtype
    slack = 1e-3 if dtype == F64 else 1e-2  # the error of a vector is the root of that of its value
    for value, v in zip([*found.top, *found.bottom], found.vectors):
        assert v.norm().item() == pytest.approx(1, abs=1e-5)
        if abs(value) > 2:
            assert (a @ v - value * v).norm() < slack * abs(value)
    assert lanczos(a).vectors is None
    sharp = lanczos(matrix([30, 12, 8, -9, *LINE]), num_top=3, num_bottom=1, tolerance=1e-20, with_vectors=True)
    for value, v in zip([*sharp.top, *sharp.bottom], sharp.vectors):
        assert (matrix([30, 12, 8, -9, *LINE]) @ v - value * v).norm() < 1e-9


def test_a_start_takes_the_place_of_the_seed():
    values = torch.tensor(SPECTRA["decay"], dtype=F64)
    cold = lanczos(values, tolerance=1e-6, with_vectors=True)
    before = cold.vectors[0].clone()
    warm = lanczos(values, tolerance=1e-6, start=cold.vectors[0])
    assert torch.equal(cold.vectors[0], before)
    assert warm.num_products < cold.num_products
    assert warm.top[0] == pytest.approx(10, rel=1e-6)
    start = torch.randn(60, dtype=F64)
    assert lanczos(values, start=start, seed=0).top == lanczos(values, start=start, seed=1).top
    assert lanczos(values, start=start).top == pytest.approx(lanczos(values, start=5 * start).top, rel=1e-12)


@pytest.mark.parametrize("at", [[0], [1], [3, 50]])
def test_a_start_inside_an_invariant_subspace_finds_the_rest(at):
    """As an eigenvector of before would be, had another eigenvalue overtaken it."""
    values = torch.tensor([10, 8, 6, 4, *LINE], dtype=F64)
    start = torch.zeros_like(values)
    start[at] = 1.0
    found = lanczos(values, start=start, tolerance=1e-3)
    assert found.top[0] == pytest.approx(10, rel=1e-3)


def test_storage_of_the_basis():
    a = matrix(SPECTRA["outliers"])
    plain = lanczos(a, num_top=3, with_vectors=True)
    stored = lanczos(a, num_top=3, with_vectors=True, storage=torch.device("cpu"))
    assert stored.top == plain.top
    assert torch.equal(stored.vectors, plain.vectors)


def test_lanczos_is_a_function_of_its_seed():
    a = matrix([10 * 0.9**k for k in range(60)])
    runs = [lanczos(a, seed=seed) for seed in (3, 3, 4)]
    torch.manual_seed(5)  # the global state has no part in it
    assert lanczos(a, seed=3).top == runs[0].top == runs[1].top
    assert runs[0].top != runs[2].top


# ------------------------------------------------------------------------------ Hessians of models


def conv_net():
    """Return a Conv-BN net in float64 with general weights, batches, and its dense Hessian by batch statistics."""
    g = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=F64) * 0.5 + 0.1)
    x, y = torch.randn(22, 2, 4, 4, generator=g, dtype=F64), torch.randint(0, 3, (22,), generator=g)
    batches = list(zip(x.split(9), y.split(9)))
    names, params = zip(*model.named_parameters())

    def value(w):
        parts = dict(zip(names, (v.view(p.shape) for v, p in zip(w.split([p.numel() for p in params]), params))))
        logits = [functional_call(model, parts, (xs,)) for xs, _ in batches]
        return sum(nn.functional.cross_entropy(z, ys, reduction="sum") for z, (_, ys) in zip(logits, batches)) / 22

    with measuring(model, batchnorm="batch"):
        hessian = torch.autograd.functional.hessian(value, torch.cat([p.detach().flatten() for p in params]))
    return model, batches, hessian


@pytest.fixture(scope="module")
def small_net():
    return conv_net()


@pytest.mark.parametrize("keep_graph", [True, False, None])
def test_hessian_eigenvalues(small_net, keep_graph):
    model, batches, hessian = small_net
    truth = torch.linalg.eigvalsh(hessian).numpy()
    assert truth[0] < -1e-2  # not convex
    before = [p.detach().clone() for p in model.parameters()]
    calls = []
    with measuring(model, batchnorm="batch"):
        objective = Objective(model, batches, poll=lambda: calls.append(1))
        found = hessian_eigenvalues(
            objective, num_top=4, num_bottom=2, tolerance=1e-6, keep_graph=keep_graph, with_vectors=True
        )
        assert len(calls) == 3 * (found.num_products + (keep_graph is True))
        again = hessian_eigenvalues(objective, num_top=4, num_bottom=2, tolerance=1e-6, keep_graph=keep_graph)
        other = hessian_eigenvalues(objective, num_top=4, num_bottom=2, tolerance=1e-2, seed=1, max_steps=4)
    assert found.converged
    assert found.top == pytest.approx(truth[::-1][:4], rel=1e-6)
    assert found.bottom == pytest.approx(truth[:2], rel=1e-6)
    for value, v in zip([*found.top, *found.bottom], found.vectors):
        assert (hessian @ v - value * v).norm() < 1e-2 * abs(value)
    assert again.top == found.top
    assert again.vectors is None
    assert other.num_products == 4
    assert not other.converged
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before))


def test_spectrum(small_net):
    model, batches, hessian = small_net
    truth = torch.linalg.eigvalsh(hessian).numpy()
    with measuring(model, batchnorm="batch"):
        objective = Objective(model, batches)
        found = spectrum(objective, num_eigenvalues=5, tolerance=1e-4, seed=2)
        one = spectrum(objective, num_eigenvalues=1, tolerance=1e-4)
        short = spectrum(objective, max_steps=6)
        assert spectrum(objective, num_eigenvalues=5, tolerance=1e-4, seed=2) == found
    names = ["lambda_max", "lambda_2", "lambda_3", "lambda_4", "lambda_5"]
    assert [found[name] for name in names] == pytest.approx(truth[::-1][:5], rel=1e-4)
    assert found["lambda_min"] == pytest.approx(truth[0], rel=1e-4)
    assert found["lambda_ratio"] == pytest.approx(truth[-1] / truth[-5], rel=2e-4)
    assert found["lambda_converged"] == 1
    assert 0 < found["lambda_error"] <= 1e-4
    assert 10 < found["lambda_products"] < 100
    assert set(found) == {*names, "lambda_ratio", "lambda_min", "lambda_error", "lambda_converged", "lambda_products"}
    assert set(one) == {"lambda_max", "lambda_min", "lambda_error", "lambda_converged", "lambda_products"}
    assert one["lambda_max"] == pytest.approx(truth[-1], rel=1e-4)
    assert short["lambda_converged"] == 0
    assert short["lambda_error"] > 1e-3
    assert short["lambda_products"] == 6


def softmax_regression():
    """With a head of zeros all classes look alike: every eigenvalue is there nine times, and ten zeros."""
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randn(300, 12, generator=g, dtype=F64), torch.randint(10, (300,), generator=g)
    model = nn.Linear(12, 10).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model, [(images, labels)]


def test_softmax_regression_with_a_zero_head():
    model, batches = softmax_regression()
    x = torch.cat([batches[0][0], torch.ones(300, 1, dtype=F64)], 1)
    largest = float(torch.linalg.eigvalsh(x.T @ x / 300)[-1]) / 10  # H = (I / 10 - 1 1' / 100) x E[x x']
    for seed in range(5):
        with measuring(model):
            found = spectrum(Objective(model, batches), tolerance=1e-2, max_steps=120, seed=seed)
        assert found["lambda_converged"] == 1
        assert [found["lambda_max"], *(found[f"lambda_{i}"] for i in (2, 3, 4, 5))] == pytest.approx(
            [largest] * 5, 1e-2
        )
        assert found["lambda_ratio"] == pytest.approx(1, abs=1e-2)
        assert abs(found["lambda_min"]) <= 1e-5 * largest
        assert found["lambda_error"] <= 1e-2  # lambda_min is zero


@pytest.mark.long
def test_no_start_skips_an_eigenvalue_of_a_net():
    """Against all eigenvalues of the dense Hessian: a single search skips one in about 1 of 100 starts."""
    for net, num_steps in enumerate((0, 30, 0, 30)):
        torch.manual_seed(2 * net)
        centres = torch.randn(5, 8, dtype=F64)
        labels = torch.randint(5, (200,))
        images = centres[labels] + torch.randn(200, 8, dtype=F64)
        layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5)]
        model = nn.Sequential(*layers).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(num_steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        with measuring(model), Objective(model, [(images, labels)]).hessian() as product:
            hessian = torch.tensor(np.stack([product.matvec(e) for e in np.eye(product.shape[0])]))
        hessian = (hessian + hessian.T) / 2
        truth = torch.linalg.eigvalsh(hessian).numpy()
        for seed in range(90):
            found = lanczos(hessian, num_top=5, num_bottom=1, tolerance=1e-2, strict=True, seed=seed, max_steps=80)
            assert found.converged, (net, seed)
            assert errors(found, truth, 1e-2)[0].max() <= 1, (net, seed)


def test_a_ratio_of_nothing_is_absent():
    """Of a flat loss there are no eigenvalues but zeros, up to rounding; of a saddle lambda_5 may be negative."""
    flat = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    nn.init.constant_(flat[0].bias, -100.0)  # all units are dead: only the last bias has curvature, of rank 2
    with measuring(flat):
        found = spectrum(Objective(flat, [(torch.randn(20, 4, dtype=F64), torch.arange(20) % 3)]), max_steps=60)
    assert "lambda_ratio" not in found
    assert found["lambda_max"] == pytest.approx(1 / 3, abs=0.05)
    assert found["lambda_5"] == pytest.approx(0, abs=1e-10)
    assert found["lambda_converged"] == 1
    assert found["lambda_error"] <= 1e-3
    signs = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5, -1.0, -2.0, -3.0], dtype=F64))
    assert "lambda_ratio" not in spectrum(quadratic(signs))
    assert spectrum(quadratic(signs), num_eigenvalues=4)["lambda_ratio"] == pytest.approx(8)


# ------------------------------------------------------------------------------------------ trace


class Quadratic(nn.Module):
    """Sample i's loss is w'A_i w / 2: its Hessian is the mean of the A_i."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, size, dtype=F64))

    def forward(self, a):
        return ((a @ self.w) * self.w).sum(1) / 2


def quadratic(hessian, num=1):
    """Return an objective with this constant Hessian."""
    spread = torch.linspace(0.5, 1.5, num, dtype=F64) if num > 1 else torch.ones(1, dtype=F64)
    a = spread[:, None, None] * hessian
    return Objective(Quadratic(len(hessian)), [(a, a)], lambda outputs, targets: outputs)


def test_trace_of_a_diagonal_hessian_is_exact():
    diagonal = torch.tensor([3.0, -1.0, 0.5, 0.0, 7.0], dtype=F64)
    for seed, probes in itertools.product(range(5), (1, 2, 5)):
        found = trace(quadratic(torch.diag(diagonal), 3), num_probes=probes, seed=seed)
        assert found["trace"] == pytest.approx(9.5, rel=1e-14)
        assert math.isnan(found["trace_stderr"]) if probes == 1 else found["trace_stderr"] < 1e-14


def test_trace_is_unbiased_and_its_error_is_the_closed_form():
    hessian = matrix([5.0, 3.0, 1.0, -1.0, 0.5, 0.1])
    objective = quadratic(hessian)
    variance = 2 * (hessian.square().sum() - hessian.diag().square().sum()).item()
    truth, probes, runs = hessian.trace().item(), 3, 500
    found = [trace(objective, probes, seed=probes * k) for k in range(runs)]
    values = np.array([f["trace"] for f in found])
    assert abs(values.mean() - truth) < 4 * math.sqrt(variance / probes / runs)
    assert values.var(ddof=1) == pytest.approx(variance / probes, rel=0.2)
    squares = np.mean([f["trace_stderr"] ** 2 for f in found])
    assert squares == pytest.approx(variance / probes, rel=0.15)  # a variance over K, not K - 1, is 1/3 less
    assert variance / probes > (0.5 * truth / 10) ** 2  # there is something to estimate
    long = trace(objective, 2000, seed=12_345)
    assert long["trace_stderr"] == pytest.approx(math.sqrt(variance / 2000), rel=0.1)
    assert abs(long["trace"] - truth) < 4 * math.sqrt(variance / 2000)


def test_trace_of_a_model(small_net):
    model, batches, hessian = small_net
    with measuring(model, batchnorm="batch"):
        objective = Objective(model, batches)
        found = trace(objective, num_probes=60, seed=1)
        assert trace(objective, num_probes=60, seed=1) == found
        assert trace(objective, num_probes=2, seed=2) != trace(objective, num_probes=2, seed=1)
    variance = 2 * (hessian.square().sum() - hessian.diag().square().sum()).item()
    assert abs(found["trace"] - hessian.trace().item()) < 4 * math.sqrt(variance / 60)
    assert found["trace_stderr"] == pytest.approx(math.sqrt(variance / 60), rel=0.4)


# ------------------------------------------------------------------------------------------ along


def test_along(small_net):
    model, batches, hessian = small_net
    values, vectors = torch.linalg.eigh(hessian)
    random = torch.randn(len(hessian), dtype=F64)
    directions = {
        "top": vectors[:, -1],
        "bottom": -3 * vectors[:, 0],
        "random": random,
        "long": 1e6 * random,
        "zero": torch.zeros_like(random),
    }
    with measuring(model, batchnorm="batch"):
        found = along(Objective(model, batches), directions)
        assert along(Objective(model, batches), {}) == {}
    assert list(found) == list(directions)
    assert found["top"] == pytest.approx(values[-1].item(), rel=1e-11)
    assert found["bottom"] == pytest.approx(values[0].item(), rel=1e-11)
    assert found["random"] == pytest.approx((random @ hessian @ random / (random @ random)).item(), rel=1e-11)
    assert found["long"] == pytest.approx(found["random"], rel=1e-12)
    assert math.isnan(found["zero"])
