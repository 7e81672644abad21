"""Sharpness against exact values: least squares, logistic regression, and the secular equation of a ball."""

import itertools
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fsamlab.axes.metric import Adaptive
from fsamlab.diagnostics import Objective, average_case, m_sharpness, m_worst_case, measuring, one_step, worst_case
from fsamlab.diagnostics.sharpness import adaptive

F64 = torch.float64
N, D, RHO = 512, 20, 0.3


def squares(outputs, targets):
    return (outputs.squeeze(1) - targets) ** 2 / 2


def logistic(outputs, targets):
    return F.softplus(-targets * outputs.squeeze(1))


@contextmanager
def unchanged(objective):
    """Measure, and check that weights and gradients are bitwise what they were."""
    params = list(objective.model.parameters())
    before = [p.detach().clone() for p in params]
    with measuring(objective.model):
        yield
        assert all(torch.equal(p, w) for p, w in zip(params, before))
        assert all(p.grad is None for p in params)


class Linear:
    """A linear model with `squares` or `logistic`, and its loss, gradient and Hessian in closed form."""

    def __init__(self, loss=squares, n=N, d=D, bias=False, sizes=(N,), seed=0, scale=1.0):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(n, d, generator=g, dtype=F64) * torch.linspace(0.3, 1.5, d, dtype=F64)
        noise = torch.randn(n, generator=g, dtype=F64)
        y = x @ torch.randn(d, generator=g, dtype=F64) + noise
        self.kind, self.y = loss, y if loss is squares else y.sign()
        self.model = nn.Linear(d, 1, bias=bias).to(F64)
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=F64) * scale)
        self.x = torch.cat([x, torch.ones(n, 1, dtype=F64)], 1) if bias else x
        self.objective = Objective(self.model, list(zip(x.split(sizes), self.y.split(sizes))), loss)
        self.w = self.objective.weights

    def losses(self, w):
        out = self.x @ w
        return (out - self.y) ** 2 / 2 if self.kind is squares else torch.log1p(torch.exp(-self.y * out))

    def rise(self, delta, rows=slice(None)):
        return (self.losses(self.w + delta) - self.losses(self.w))[rows].mean().item()

    def gradient(self, rows=slice(None), at=None):
        out = self.x @ (self.w if at is None else at)
        slopes = out - self.y if self.kind is squares else -self.y * torch.sigmoid(-self.y * out)
        return (slopes[:, None] * self.x)[rows].mean(0)

    @property
    def hessian(self):
        p = torch.sigmoid(self.x @ self.w)
        curvatures = torch.ones_like(p) if self.kind is squares else p * (1 - p)
        return self.x.T @ (curvatures[:, None] * self.x) / len(self.x)


def ascent(g, rho, t=1.0):
    return rho * t * t * g / (t * g).norm()


def secular(g, hessian, rho, t=None):
    """Return the maximum of <g, d> + d'Hd / 2 over |T^-1 d| <= rho, H positive: (mu - THT) z = T g at |z| = rho."""
    t = torch.ones_like(g) if t is None else t
    values, vectors = np.linalg.eigh((t[:, None] * hessian * t).numpy())
    b = vectors.T @ (t * g).numpy()
    low, high = values[-1], values[-1] + np.linalg.norm(b) / rho
    for _ in range(200):
        mu = (low + high) / 2
        if np.linalg.norm(b / (mu - values)) > rho:
            low = mu
        else:
            high = mu
    z = b / (high - values)
    assert np.linalg.norm(z) == pytest.approx(rho, rel=1e-9)
    return float(b @ z + z @ (values * z) / 2)


# ------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("sizes", [(N,), (200, 200, 112)])
def test_one_step_on_least_squares(sizes):
    p = Linear(sizes=sizes)
    g, h = p.gradient(), p.hessian
    with unchanged(p.objective):
        found = one_step(p.objective, RHO)
    curved = (RHO**2 / 2 * (g @ h @ g) / (g @ g)).item()
    assert found.first_order == pytest.approx(RHO * g.norm().item(), rel=1e-12)
    assert found.total == pytest.approx(RHO * g.norm().item() + curved, rel=1e-12)
    assert found.curvature == pytest.approx(curved, rel=1e-11)
    assert found.curvature > 1e-2 * found.total


def test_one_step_on_logistic_regression():
    p = Linear(logistic, sizes=(300, 212))
    g, h = p.gradient(), p.hessian
    with unchanged(p.objective):
        for rho in (1.0, RHO, 1e-3):
            found = one_step(p.objective, rho)
            assert found.first_order == pytest.approx(rho * g.norm().item(), rel=1e-12)
            assert found.total == pytest.approx(p.rise(ascent(g, rho)), rel=1e-12 if rho > 0.1 else 1e-9)
            assert found.total == found.first_order + found.curvature
        curved = (1e-6 / 2 * (g @ h @ g) / (g @ g)).item()
        assert found.curvature == pytest.approx(curved, rel=1e-2)


@pytest.mark.parametrize("loss", [squares, logistic])
@pytest.mark.parametrize("form", ["official", "all"])
@pytest.mark.parametrize("eta", [0.0, 0.01, 0.5])
def test_adaptive_one_step(loss, form, eta):
    p = Linear(loss, bias=True, sizes=(300, 212))
    with torch.no_grad():
        p.model.weight[0, ::3] = 0.0  # T is 0 there where eta is
    p.w = p.objective.weights
    t = p.w.abs() + eta
    if form == "official":
        t[-1] = 1.0  # of the bias
    with unchanged(p.objective):
        diagonal = adaptive(p.objective, Adaptive(eta, form))
        assert torch.equal(diagonal, t)
        found = one_step(p.objective, RHO, diagonal)
        worst = worst_case(p.objective, RHO, diagonal, num_steps=3, num_restarts=2)
        average = average_case(p.objective, RHO, diagonal)
        whole, batches = m_sharpness(p.objective, RHO, diagonal)
    delta = ascent(p.gradient(), RHO, t)
    assert found.total == pytest.approx(p.rise(delta), rel=1e-12)
    assert found.first_order == pytest.approx((p.gradient() @ delta).item(), rel=1e-12)
    assert whole.total == pytest.approx(found.total, rel=1e-12)
    assert worst.total >= found.total * (1 - 1e-12)
    assert all(map(math.isfinite, [worst.total, worst.first_order, *average, batches.total, batches.first_order]))
    if eta == 0:
        assert (delta[p.w == 0] == 0).all()
    # neighbouring rules: T in place of T^2, or the norm of g for that of T g
    g = p.gradient()
    for wrong in (RHO * t * g / (t * g).norm(), RHO * t * t * g / g.norm()):
        assert abs(p.rise(wrong) / found.total - 1) > 1e-4


def test_all_weights_zero_leaves_an_adaptive_ball_of_one_point():
    p = Linear(sizes=(300, 212))
    with torch.no_grad():
        p.model.weight.zero_()
    with unchanged(p.objective):
        t = adaptive(p.objective, Adaptive(0.0, "all"))
        assert not t.any()
        for rise in (
            one_step(p.objective, RHO, t),
            worst_case(p.objective, RHO, t, num_restarts=3),
            *m_sharpness(p.objective, RHO, t),
        ):
            assert (rise.total, rise.first_order, rise.curvature) == (0.0, 0.0, 0.0)
        assert average_case(p.objective, RHO, t) == (0.0, 0.0)


def test_adaptive_values_do_not_see_the_scale_of_layers():
    """A ReLU net with layers (c A, B / c) is the same function: form `all`, eta 0 sees no difference, plain does."""
    x, y = torch.randn(40, 5, dtype=F64), torch.randint(0, 3, (40,))
    layers = nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    model = nn.Sequential(*layers).to(F64)
    objective = Objective(model, [(x[:30], y[:30]), (x[30:], y[30:])])

    def values(t):
        whole, batches = m_sharpness(objective, 0.5, t)
        worst = worst_case(objective, 0.5, t, num_restarts=2)
        return [whole.total, batches.total, worst.total, worst.first_order, *average_case(objective, 0.5, t)]

    found = []
    for c in (1.0, 4.0):
        with torch.no_grad():
            model[0].weight *= c
            model[2].weight /= c
        with unchanged(objective):
            found.append((values(adaptive(objective, Adaptive(0.0, "all"))), values(None)))
    (adapted, simple), (adapted_too, simple_too) = found
    assert adapted == pytest.approx(adapted_too, rel=1e-10)
    assert all(abs(a / b - 1) > 1e-2 for a, b in zip(simple, simple_too))


# ---------------------------------------------------------------------------------- m-sharpness


@pytest.mark.parametrize("loss", [squares, logistic])
@pytest.mark.parametrize("metric", [False, True])
def test_m_sharpness_is_the_mean_over_batches_weighted_by_size(loss, metric):
    sizes = (100, 100, 7)
    p = Linear(loss, n=207, sizes=sizes, seed=3)
    t = p.w.abs() + 0.1 if metric else torch.ones_like(p.w)
    bounds = list(itertools.accumulate(sizes, initial=0))
    rows = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    deltas = [ascent(p.gradient(r), RHO, t) for r in rows]
    rises = np.array([p.rise(d, r) for d, r in zip(deltas, rows)])
    firsts = np.array([(p.gradient(r) @ d).item() for d, r in zip(deltas, rows)])
    with unchanged(p.objective):
        whole, batches = m_sharpness(p.objective, RHO, t if metric else None)
        alone = one_step(p.objective, RHO, t if metric else None)
        each = [one_step(p.objective.of([b]), RHO, t if metric else None).total for b in p.objective.batches]
    assert batches.total == pytest.approx((rises @ sizes) / 207, rel=1e-12)
    assert batches.first_order == pytest.approx((firsts @ sizes) / 207, rel=1e-12)
    assert each == pytest.approx(rises, rel=1e-12)
    assert whole.total == pytest.approx(alone.total, rel=1e-12)
    assert whole.first_order == pytest.approx(alone.first_order, rel=1e-12)
    assert abs(rises.mean() / batches.total - 1) > 1e-4  # every batch the same
    wrong = sum(p.rise(ascent(p.gradient(), RHO, t), r) * n for r, n in zip(rows, sizes)) / 207  # the whole gradient
    assert abs(wrong / batches.total - 1) > 1e-4


def test_m_sharpness_grows_as_m_shrinks():
    found = []
    for m in (512, 128, 32, 8):
        p = Linear(sizes=(m,) * (N // m))
        with unchanged(p.objective):
            whole, batches = m_sharpness(p.objective, RHO)
        found.append(batches.total)
        assert whole.total == pytest.approx(p.rise(ascent(p.gradient(), RHO)), rel=1e-12)
    assert found[0] == pytest.approx(whole.total, rel=1e-12)
    assert found == sorted(found)
    assert found[-1] > 1.01 * found[0]


# ------------------------------------------------------------------------------------ worst case


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("metric", ["plain", "adaptive", "with zeros"])
@pytest.mark.parametrize("distance", [0.2, 0.05])
def test_worst_case_against_the_secular_equation(distance, metric, seed):
    """The nearer to the minimum, the more the maximum in the ball is the curvature's, and the longer the way."""
    p = Linear(sizes=(300, 212), seed=seed)
    with torch.no_grad():
        minimum = torch.linalg.lstsq(p.x, p.y).solution
        step = torch.randn(D, generator=torch.Generator().manual_seed(seed), dtype=F64)
        p.model.weight.copy_(minimum + distance * step)
        if metric == "with zeros":
            p.model.weight[0, ::4] = 0.0
    p.w = p.objective.weights
    t = None if metric == "plain" else p.w.abs()
    truth = secular(p.gradient(), p.hessian, RHO, t)
    with unchanged(p.objective):
        one = one_step(p.objective, RHO, t)
        found = {n: worst_case(p.objective, RHO, t, num_steps=n, num_restarts=1) for n in (1, 5, 20, 80)}
        restarted = worst_case(p.objective, RHO, t, num_restarts=3, seed=seed)
    assert found[20].total >= (0.9999 if distance == 0.2 else 0.99) * truth
    assert found[80].total >= 0.9999 * truth
    assert found[80].total >= found[20].total >= found[5].total >= found[1].total
    assert all(f.total <= truth * (1 + 1e-12) for f in (*found.values(), restarted))
    assert found[1].total == pytest.approx(one.total, rel=1e-12)
    assert one.total < 0.996 * truth  # there is something to find beyond one step
    assert restarted.total >= found[20].total
    stretched = p.gradient() if t is None else t * p.gradient()
    for rise in (*found.values(), restarted):
        assert 0 < rise.first_order <= RHO * stretched.norm().item() * (1 + 1e-12)
        scaled = p.hessian if t is None else t[:, None] * p.hessian * t
        most = RHO**2 / 2 * torch.linalg.eigvalsh(scaled)[-1].item()
        assert 0 < rise.curvature <= most * (1 + 1e-12)


@pytest.mark.parametrize("rho", [0.1, RHO, 3.0])
def test_worst_case_on_logistic_regression(rho):
    """A convex loss has its maximum on the sphere: d <- rho g(w + d) / |g(w + d)| climbs to it."""
    p = Linear(logistic, sizes=(300, 212), scale=0.3)
    best = 0.0
    for k in range(4):
        delta = p.gradient() if k == 0 else torch.randn(D, dtype=F64)
        for _ in range(300):
            delta = rho * delta / delta.norm()
            delta = p.gradient(at=p.w + delta)
        best = max(best, p.rise(rho * delta / delta.norm()))
    with unchanged(p.objective):
        found = worst_case(p.objective, rho)
        assert found.total >= one_step(p.objective, rho).total * (1 - 1e-12)
    assert 0.9999 * best <= found.total <= best * (1 + 1e-9)


def test_restarts_find_what_one_start_cannot():
    """At a stationary point the gradient shows no way; a random start finds the top of the ball."""
    p = Linear()
    with torch.no_grad():
        p.model.weight.zero_()
    p.objective.batches = [(x, torch.zeros_like(y)) for x, y in p.objective.batches]
    truth = RHO**2 / 2 * torch.linalg.eigvalsh(p.hessian)[-1].item()
    with unchanged(p.objective):
        assert worst_case(p.objective, RHO, num_restarts=1).total == 0
        assert worst_case(p.objective, RHO, num_steps=40).total > 0.99 * truth  # a random start by default
        assert (
            m_worst_case(p.objective, RHO, num_steps=40).total
            >= worst_case(p.objective, RHO, num_steps=40).total * 0.999
        )
        found = [worst_case(p.objective, RHO, num_restarts=k, num_steps=40, seed=5) for k in (1, 2, 3, 5)]
        again = worst_case(p.objective, RHO, num_restarts=3, num_steps=40, seed=5)
        other = worst_case(p.objective, RHO, num_restarts=3, num_steps=2, seed=50)
        few = worst_case(p.objective, RHO, num_restarts=3, num_steps=2, seed=5)
    totals = [f.total for f in found]
    assert totals == sorted(totals)
    assert 0.99 * truth < totals[1] <= truth * (1 + 1e-12)
    assert all(f.first_order == 0 for f in found)
    assert again == found[2]
    assert other != few


class Hill(nn.Module):
    """A concave loss whose maximum is inside the ball: steps of a fixed length go over it."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, dtype=F64))

    def forward(self, x):
        return -((x * (self.w - 0.05)) ** 2).sum(1) / 2


def test_worst_case_stops_at_a_maximum_inside_the_ball():
    x = torch.tensor([[1.0, 1.5, 2.0, 2.5]], dtype=F64)
    objective = Objective(Hill(), [(x, x)], lambda outputs, targets: outputs)
    truth = (0.05**2 / 2) * x.square().sum().item()
    with unchanged(objective):
        assert one_step(objective, RHO).total < 0  # all the way to the sphere is too far
        found = [worst_case(objective, RHO, num_steps=n) for n in (1, 5, 20, 40)]
    assert (found[0].total, found[0].first_order) == (0.0, 0.0)
    totals = [f.total for f in found]
    assert totals == sorted(totals)
    assert 0.99 * truth < totals[-1] <= truth * (1 + 1e-12)
    assert found[-1].curvature < 0


def test_a_random_start_is_inside_the_ball():
    """On a linear loss a rise of more than rho |g| would give one outside away; the best is the one step's."""
    model = nn.Linear(6, 1, bias=False).to(F64)
    x = torch.randn(10, 6, dtype=F64)
    objective = Objective(model, [(x, x)], lambda outputs, targets: outputs.squeeze(1))
    with unchanged(objective):
        found = worst_case(objective, RHO, num_restarts=5, num_steps=4)
    assert found.total == pytest.approx(RHO * x.mean(0).norm().item(), rel=1e-9)
    assert found.curvature == pytest.approx(0, abs=1e-12)


SMALL = {"deadline": None, "max_examples": 20, "database": None, "derandomize": True}


@settings(**SMALL)
@given(
    seed=st.integers(0, 10**6),
    rho=st.sampled_from([1e-3, 0.05, 0.5, 5.0]),
    layer=st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU]),
    metric=st.sampled_from([None, ("official", 0.01), ("all", 0.0)]),
    sizes=st.sampled_from([(12,), (5, 5, 2)]),
    num_steps=st.integers(1, 6),
)
def test_worst_case_is_never_below_one_step(seed, rho, layer, metric, sizes, num_steps):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), layer(), nn.LayerNorm(6), nn.Linear(6, 3)).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=F64))
    x, y = torch.randn(12, 4, generator=g, dtype=F64), torch.randint(0, 3, (12,), generator=g)
    objective = Objective(model, list(zip(x.split(sizes), y.split(sizes))))
    with unchanged(objective):
        t = metric and adaptive(objective, Adaptive(metric[1], metric[0]))
        one = one_step(objective, rho, t)
        found = worst_case(objective, rho, t, num_steps=num_steps, seed=seed)
        more = worst_case(objective, rho, t, num_steps=num_steps, num_restarts=2, seed=seed)
        whole, _ = m_sharpness(objective, rho, t)
    assert found.total >= max(0.0, one.total) - 1e-12 * abs(one.total)
    assert more.total >= found.total
    assert whole.total == pytest.approx(one.total, rel=1e-9, abs=1e-14)
    assert one.first_order > 0


# ---------------------------------------------------------------------------------- average case


@pytest.mark.parametrize("metric", [False, True])
def test_average_case_on_least_squares(metric):
    p = Linear(sizes=(300, 212))
    t = p.w.abs() if metric else None
    scaled = p.hessian if t is None else t[:, None] * p.hessian * t
    sigma, pairs = 0.07, 600
    truth = sigma**2 / 2 * scaled.trace().item()
    stderr = sigma**2 / 2 * math.sqrt(2 * scaled.square().sum().item() / pairs)  # Var z'Az = 2 |A|^2
    with unchanged(p.objective):
        mean, error = average_case(p.objective, sigma, t, num_pairs=pairs, seed=100)
        assert average_case(p.objective, sigma, t, num_pairs=3) == average_case(p.objective, sigma, t, num_pairs=3)
        assert average_case(p.objective, sigma, t, num_pairs=3) != average_case(
            p.objective, sigma, t, num_pairs=3, seed=9
        )
        one, none = average_case(p.objective, sigma, t, num_pairs=1)
    assert abs(mean - truth) < 4 * stderr
    assert 4 * stderr < 0.3 * truth
    assert error == pytest.approx(stderr, rel=0.15)
    assert math.isnan(none)
    assert one == pytest.approx(truth, rel=2)


def test_the_error_of_the_average_case_is_calibrated():
    p = Linear(n=40, d=4, sizes=(40,))
    variance = (0.1**2 / 2) ** 2 * 2 * p.hessian.square().sum().item()
    with unchanged(p.objective):
        runs = [average_case(p.objective, 0.1, num_pairs=3, seed=3 * k) for k in range(400)]
    means, errors = np.array(runs).T
    truth = 0.1**2 / 2 * p.hessian.trace().item()
    assert abs(means.mean() - truth) < 4 * math.sqrt(variance / 3 / 400)
    assert means.var(ddof=1) == pytest.approx(variance / 3, rel=0.25)
    assert (errors**2).mean() == pytest.approx(variance / 3, rel=0.25)  # over K for K - 1 would be 1/3 less


def test_a_pair_of_draws_has_no_first_order_part():
    model = nn.Linear(D, 1, bias=False).to(F64)
    x = torch.randn(50, D, dtype=F64) + 1
    objective = Objective(model, [(x, x)], lambda outputs, targets: outputs.squeeze(1))
    with unchanged(objective):
        mean, error = average_case(objective, 1.0, num_pairs=20)
        losses = objective.losses()
        single = [objective.rise(torch.randn(D, dtype=F64), losses) for _ in range(20)]
    assert abs(mean) < 1e-14
    assert error < 1e-14
    assert np.std(single) > 1  # one sign only would be all first order


# ------------------------------------------------------------------------------- between the three


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rho", [0.01, RHO, 2.0])
def test_order_on_convex_quadratics(seed, rho):
    """Of equal radius: worst >= one step >= average, as the gradient part of the last is zero."""
    p = Linear(seed=seed)
    sigma = rho / math.sqrt(D)
    with unchanged(p.objective):
        one, worst = one_step(p.objective, rho), worst_case(p.objective, rho)
        mean, error = average_case(p.objective, sigma, num_pairs=40)
        whole, batches = m_sharpness(p.objective, rho)
    assert worst.total >= one.total * (1 - 1e-12)
    assert one.total >= one.first_order > 0
    assert worst.total >= mean - 4 * error
    truth = sigma**2 / 2 * p.hessian.trace().item()
    assert one.total > truth > 0
    assert mean == pytest.approx(truth, abs=5 * error)
    assert batches.total == pytest.approx(whole.total, rel=1e-12)  # one batch
    assert batches.first_order == pytest.approx(one.first_order, rel=1e-12)


def test_a_zero_gradient_is_zero_sharpness():
    p = Linear(sizes=(300, 212))
    p.objective.batches = [(x, torch.zeros_like(y)) for x, y in p.objective.batches]
    with torch.no_grad():
        p.model.weight.zero_()
    with unchanged(p.objective):
        for rise in (
            one_step(p.objective, RHO),
            worst_case(p.objective, RHO, num_restarts=1),
            *m_sharpness(p.objective, RHO),
        ):
            assert (rise.total, rise.first_order, rise.curvature) == (0.0, 0.0, 0.0)
        mean, error = average_case(p.objective, RHO)
    assert mean > error > 0


def test_opposite_batches_have_sharpness_where_the_whole_has_none():
    model = nn.Linear(1, 1, bias=False).to(F64)
    with torch.no_grad():
        model.weight.zero_()
    x = torch.ones(2, 1, dtype=F64)
    objective = Objective(model, [(x, torch.ones(2, dtype=F64)), (x, -torch.ones(2, dtype=F64))], squares)
    with unchanged(objective):
        whole, batches = m_sharpness(objective, RHO)
    assert (whole.total, whole.first_order) == (0.0, 0.0)
    assert batches.first_order == pytest.approx(RHO, rel=1e-14)
    assert batches.total == pytest.approx(RHO + RHO**2 / 2, rel=1e-14)


def test_worst_case_per_batch_is_the_mean_of_each_batches_own():
    p = Linear(sizes=(300, 212))
    with unchanged(p.objective):
        found = m_worst_case(p.objective, RHO, num_steps=40)
        each = [worst_case(part, RHO, num_steps=40).total for part in p.objective.parts()]
        whole = worst_case(p.objective, RHO, num_steps=40).total
    assert found.total == pytest.approx((300 * each[0] + 212 * each[1]) / 512, rel=1e-12)
    assert found.total > whole


def test_small_rises_of_float32_models():
    """Losses of the samples are float64: a curvature of 1e-6 of the loss is there, in float32 it is noise."""
    off, naive = [], []
    for seed in range(8):
        p = Linear(n=4000, sizes=(4000,), seed=seed)
        x, y = p.x.float(), p.y.float()
        model = nn.Linear(D, 1, bias=False)
        model.load_state_dict({"weight": p.w.float()[None]})

        def half(outputs, targets):
            return (outputs.squeeze(1).double() - targets.double()) ** 2 / 2

        p.x, p.y, p.w = x.double(), y.double(), p.w.float().double()
        truth = p.rise(ascent(p.gradient(), 1e-4))
        objective = Objective(model, [(x, y)], half)
        with unchanged(objective):
            found = one_step(objective, 1e-4)
            gradient = objective.gradient()[0]
        off.append(abs(found.total / truth - 1))
        assert found.first_order == pytest.approx(1e-4 * p.gradient().norm().item(), rel=1e-5)
        w, delta = p.w.float(), 1e-4 * gradient / gradient.norm()
        plainly = [F.mse_loss(x @ v, y).item() / 2 for v in (w + delta, w)]
        naive.append(abs((plainly[0] - plainly[1]) / truth - 1))
    assert max(off) < 1e-3
    assert np.median(off) < 0.3 * np.median(naive)


def test_costs():
    """In batches seen: a gradient and a loss for one step, and so on, as the docstrings say."""
    calls = []
    p = Linear(sizes=(300, 212))
    objective = Objective(p.model, p.objective.batches, squares, poll=lambda: calls.append(1))

    def passes(measure, *arguments, **how):
        calls.clear()
        measure(objective, *arguments, **how)
        return len(calls) / 2

    with unchanged(objective):
        assert passes(one_step, RHO) == 2
        assert passes(m_sharpness, RHO) == 3
        assert passes(average_case, RHO, num_pairs=4) == 9
        assert passes(worst_case, RHO, num_steps=6, num_restarts=1) <= 2 * 6
        assert passes(worst_case, RHO, num_steps=6, num_restarts=3) <= 3 * (2 * 6 + 1)
