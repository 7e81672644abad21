"""Gradient noise and EMA variance against brute force: unbiased where they say so, and known-wrong variants are not."""

import itertools
import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fsamlab.axes.reference import ema_weights
from fsamlab.diagnostics.noise import GradientNoise, Sampling, ema_cosine, ema_variance, gradient_noise
from fsamlab.optim import FSAM

INITS = ("first_gradient", "zero", "zero_debiased")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def z_score(values, truth):
    """Return how many standard errors the mean of independent `values` lies off `truth`."""
    x = torch.as_tensor(values, dtype=torch.float64)
    return abs(float(x.mean()) - truth) / (float(x.std()) / math.sqrt(len(x)))


# ----------------------------------------------------------------------- from a distribution


MU = torch.tensor([1.0, -0.5, 0.3, 0.0, 2.0], dtype=torch.float64)
ROOT = torch.randn(5, 5, generator=generator(5), dtype=torch.float64) * 3  # Sigma = R R'
GRAD_SQ, TRACE = float(MU @ MU), float((ROOT**2).sum())
SIZE = 7


def gaussian_batches(num_draws, k, seed):
    """Mean gradients of batches of SIZE samples from N(MU, Sigma): (draws, k, P)."""
    z = torch.randn(num_draws, k, len(MU), generator=generator(seed), dtype=torch.float64)
    return MU + z @ ROOT.T / math.sqrt(SIZE)


@pytest.mark.parametrize("k", [2, 3, 8, 16])
def test_estimates_are_unbiased(k):
    draws = gaussian_batches(3000, k, seed=k)
    found = [gradient_noise(g, SIZE) for g in draws]
    assert z_score([n.grad_sq for n in found], GRAD_SQ) < 4
    assert z_score([n.trace_sigma for n in found], TRACE) < 4
    assert {(n.batch_size, n.num_batches) for n in found} == {(SIZE, k)}
    # |mean|^2 and the variance over k instead of k - 1 are what one would take without thinking
    assert z_score((draws.mean(1) ** 2).sum(1), GRAD_SQ) > 6
    assert z_score(SIZE * draws.var(1, unbiased=False).sum(1), TRACE) > 6


def test_the_expected_square_of_a_mean_over_more_samples():
    found = [gradient_noise(g, SIZE).grad_sq_of(3 * SIZE) for g in gaussian_batches(4000, 6, seed=1)]
    direct = gaussian_batches(4000, 3, seed=2).mean(1)  # means over 3 SIZE samples
    assert z_score(found, GRAD_SQ + TRACE / (3 * SIZE)) < 4
    assert z_score((direct**2).sum(1), GRAD_SQ + TRACE / (3 * SIZE)) < 4


def test_scale_is_a_ratio_of_means():
    found = [gradient_noise(g, SIZE) for g in gaussian_batches(2000, 16, seed=3)]
    mean = GradientNoise(fmean(n.grad_sq for n in found), fmean(n.trace_sigma for n in found), 0.0, SIZE, 16)
    assert mean.scale == pytest.approx(TRACE / GRAD_SQ, rel=0.03)
    positive = [n.scale for n in found if n.grad_sq > 1]  # where the ratio is tame
    assert fmean(positive) > 1.1 * TRACE / GRAD_SQ  # the mean of ratios
    assert found[0].scale == found[0].trace_sigma / found[0].grad_sq
    assert math.isnan(GradientNoise(0.0, 1.0, 0.0, 1, 2).scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coherence_is_the_mean_cosine_of_pairs(dtype):
    gradients = gaussian_batches(1, 9, seed=4)[0].to(dtype)
    kept = gradients.clone()
    brute = [torch.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(gradients.double(), 2)]
    found = gradient_noise(iter(gradients), SIZE)
    assert found.coherence == pytest.approx(fmean(brute), abs=1e-6 if dtype == torch.float32 else 1e-14)
    assert torch.equal(gradients, kept)
    assert found.values()["coherence"] == found.coherence
    # the mean cosine with the mean gradient is another quantity
    with_mean = torch.cosine_similarity(gradients, gradients.mean(0, keepdim=True)).mean()
    assert abs(float(with_mean) - found.coherence) > 0.1


def test_a_gradient_of_zero_has_no_cosine():
    gradients = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.zeros(2)]
    found = gradient_noise(gradients, 1).coherence  # the pair that has a cosine has 0
    assert math.isnan(found) or found == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("a", "b"), [(16, 16), (16, 64), (4, 128)])
def test_predicted_cosines_hold_in_many_dimensions(a, b):
    num_params, draws = 2000, 60
    mu = torch.ones(num_params, dtype=torch.float64) * 0.2
    noise = GradientNoise(float(mu @ mu), float(num_params), 0.0, 16, 2)  # Sigma = 1
    z = torch.randn(2, draws, num_params, generator=generator(a + b), dtype=torch.float64)
    cosines = torch.cosine_similarity(mu + z[0] / math.sqrt(a), mu + z[1] / math.sqrt(b), dim=1)
    assert noise.cosine_of(a, b) == pytest.approx(float(cosines.mean()), abs=0.01)
    with_true_mean = 1 / math.sqrt(1 + noise.scale / a)  # as if the other one were free of noise
    assert abs(with_true_mean - float(cosines.mean())) > 0.02
    if a == b:
        assert noise.values()["coherence_predicted"] == noise.cosine_of(16, 16)


def test_a_negative_estimate_is_kept_and_predicts_what_it_can():
    found = gradient_noise([torch.tensor([1.0, 0.1]), torch.tensor([-1.0, 0.1])], 4)
    assert found.grad_sq == pytest.approx(-0.99)
    assert found.trace_sigma == pytest.approx(4 * 2)
    values = found.values()
    assert values["grad_sq"] == found.grad_sq
    assert math.isnan(values["scale"])  # absent where it is logged
    assert values["coherence_predicted"] == pytest.approx(-0.99 / 1.01)
    assert math.isnan(found.cosine_of(4, 1e9))  # a set whose expected square is negative
    weights, steps = ema_weights(5, 0.9, "zero"), torch.arange(5)
    assert math.isnan(ema_cosine(found, weights, steps, Sampling(100, 4, 25), 100))
    assert 0 < ema_cosine(found, weights, steps, Sampling(8, 4, 2), 8) < 1  # the set's own |g|^2, -.99 + 8/8, is not


def test_parts_of_a_set_without_gradient_point_apart():
    x = torch.randn(48, 3000, generator=generator(6), dtype=torch.float64)
    x -= x.mean(0)
    found = gradient_noise(x.view(12, 4, -1).mean(1), 4)
    assert found.coherence == pytest.approx(-1 / 11, abs=1e-3)
    assert found.values()["coherence_predicted"] == pytest.approx(found.coherence, abs=1e-3)


@pytest.mark.parametrize("num", [0, 1])
def test_fewer_than_two_batches(num):
    with pytest.raises(ValueError, match="at least two batches"):
        gradient_noise([torch.ones(3)] * num, 4)


# ------------------------------------------------------------------- from a finite population


def population(num, num_params=5, seed=0, mean=0.6):
    """Per-sample gradients (N, P), their mean, and S^2 with its N - 1."""
    x = mean + torch.randn(num, num_params, generator=generator(seed), dtype=torch.float64).cumsum(1)
    return x, x.mean(0), float(x.var(0).sum())


@pytest.mark.parametrize("k", [2, 5, 12])
def test_disjoint_batches_of_a_finite_population(k):
    num, size = 48, 4
    x, mean, s_square = population(num)
    orders = torch.rand(4000, num, generator=generator(k), dtype=torch.float64).argsort(1)[:, : k * size]
    found = [gradient_noise(g, size) for g in x[orders].view(4000, k, size, -1).mean(2)]
    own = float(mean @ mean)
    corrected, raw = [n.grad_sq_of(num) for n in found], [n.grad_sq for n in found]
    assert z_score([n.trace_sigma for n in found], s_square) < 4
    assert z_score(raw, own - s_square / num) < 4
    assert z_score(raw, own) > 6  # the uncorrected value is not the set's own |g|^2
    if k * size < num:
        assert z_score(corrected, own) < 4
    else:  # all samples are there: then it is not even an estimate
        assert corrected == pytest.approx([own] * 4000, rel=1e-12)


# ------------------------------------------------------------------------------ weights of an EMA


def simulated(num_updates, lmbda, ema_init):
    """The weights as the EMA of unit vectors has them, by its recursion."""
    gradients = torch.eye(num_updates, dtype=torch.float64)
    m = gradients[0] if ema_init == "first_gradient" else (1 - lmbda) * gradients[0]
    for g in gradients[1:]:
        m = lmbda * m + (1 - lmbda) * g
    return m


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(0, 0.995), st.sampled_from(INITS))
@example(1, 0.0, "first_gradient")
@example(3, 0.0, "zero")
@example(55, 0.6, "first_gradient")  # the horizon of lmbda .6
@example(56, 0.6, "first_gradient")
@example(300, 1e-300, "first_gradient")
def test_weights_are_those_of_an_ema(num_updates, lmbda, ema_init):
    weights, expected = ema_weights(num_updates, lmbda, ema_init), simulated(num_updates, lmbda, ema_init)
    kept = len(weights)
    assert weights.dtype == torch.float64
    assert 1 <= kept <= num_updates
    torch.testing.assert_close(weights, expected[num_updates - kept :], rtol=1e-9, atol=1e-15)
    assert bool((expected[: num_updates - kept] < 1.0001e-12).all())
    total = 1.0 if ema_init == "first_gradient" else 1 - lmbda**num_updates
    assert float(weights.sum()) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("ema_init", INITS)
def test_weights_are_those_of_the_optimizer(ema_init):
    w = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = FSAM([w], lr=0.0, lmbda=0.8, ema_init=ema_init)
    for g in torch.eye(6, dtype=torch.float64):

        def closure(g=g):
            w.grad = g.clone()
            return w.detach().sum()

        optimizer.step(closure)
    torch.testing.assert_close(optimizer.state[w]["ema"], ema_weights(6, 0.8, ema_init), rtol=1e-12, atol=0)
    other = {"zero": "first_gradient"}.get(ema_init, "zero")
    assert (ema_weights(6, 0.8, other) - optimizer.state[w]["ema"]).abs().max() > 0.05 or ema_init == "zero_debiased"


# ----------------------------------------------------------------------------- variance of an EMA


def drawn_means(x, sampling, steps, trials, seed):
    """Batch means (trials, steps, P) at the global `steps`: every epoch of every trial is shuffled anew."""
    means = {}
    for epoch in sorted({int(s) // sampling.steps_per_epoch for s in steps}):
        orders = torch.rand(trials, len(x), generator=generator(seed + epoch), dtype=torch.float64).argsort(1)
        for number, chunk in enumerate(orders.split(sampling.batch_size, dim=1)):  # a dropped one is never asked for
            means[epoch * sampling.steps_per_epoch + number] = x[chunk].mean(1)
    return torch.stack([means[int(s)] for s in steps], dim=1)


N, B = 23, 5
CASES = {  # name: (batches of an epoch, steps of the gradients, lmbda)
    "within_an_epoch": (5, range(1, 4), 0.6),
    "ragged_last": (5, range(5), 0.6),
    "several_epochs": (5, range(5, 18), 0.9),
    "several_epochs_ragged": (5, range(3, 15), 0.9),
    "drop_last": (4, range(2, 16), 0.9),
    "every_second_step": (5, range(0, 21, 2), 0.9),
}


@pytest.mark.parametrize("ema_init", ["zero", "first_gradient"])
@pytest.mark.parametrize("case", CASES)
def test_variance_under_shuffled_epochs(case, ema_init):
    per_epoch, steps, lmbda = CASES[case]
    sampling, steps = Sampling(N, B, per_epoch), torch.tensor(steps)
    weights = ema_weights(len(steps), lmbda, ema_init)
    x, mean, s_square = population(N, num_params=3)
    means = drawn_means(x, sampling, steps, 20_000, seed=len(steps))
    off = torch.einsum("tsp,s->tp", means, weights) - weights.sum() * mean
    squares = (off**2).sum(1)
    found = ema_variance(weights, steps, sampling)
    assert z_score(squares / s_square, found) < 4
    # known-wrong: batches taken for independent; a ragged batch taken for a full one
    independent = Sampling(N, B, per_epoch, independent=True)
    assert z_score(squares / s_square, ema_variance(weights, steps, independent)) > 6
    if "ragged" in case:
        wrong = found - float((weights**2 / sampling.sizes(steps) - weights**2 / B).sum())
        assert z_score(squares / s_square, wrong) > 6


@pytest.mark.parametrize("fed", [3, 8, 15, 24])
def test_variance_of_nested_ascent_batches(fed):
    """The first samples of each descent batch of 6, or all of them and others from outside the batch at random."""
    num, size, trials, num_steps = 24, 6, 20_000, 8
    x, mean, s_square = population(num, num_params=3)
    means = []
    for step in range(num_steps):
        epoch, number = divmod(step, num // size)
        order = torch.rand(trials, num, generator=generator(100 + epoch), dtype=torch.float64).argsort(1)
        batch = order[:, number * size : (number + 1) * size]
        rest = torch.cat([order[:, : number * size], order[:, (number + 1) * size :]], dim=1)
        picks = torch.rand(rest.shape, generator=generator(200 + step)).argsort(1)[:, : max(0, fed - size)]
        means.append(x[torch.cat([batch[:, :fed], rest.gather(1, picks)], dim=1)].mean(1))
    weights, steps = ema_weights(num_steps, 0.9, "first_gradient"), torch.arange(num_steps)
    off = torch.einsum("tsp,s->tp", torch.stack(means, dim=1), weights) - mean
    squares = (off**2).sum(1) / s_square
    sampling = Sampling(num, size, num // size, ascent_size=fed)
    found = ema_variance(weights, steps, sampling)
    if fed == num:  # the whole set each time
        assert found == pytest.approx(0.0, abs=1e-12)
        assert float(squares.max()) < 1e-20
    else:
        assert z_score(squares, found) < 4
        assert z_score(squares, ema_variance(weights, steps, replace(sampling, independent=True))) > 6


def test_variance_of_micro_batches():
    """Parts of a batch feed the EMA one by one: they are batches of a smaller size, and share their batch's epoch."""
    weights, steps = ema_weights(16, 0.9, "zero"), torch.arange(16)
    small = ema_variance(weights, steps, Sampling(24, 3, 8))
    parts = Sampling(24, 6, 4, parts=2)
    assert ema_variance(weights, steps // 2, parts) == pytest.approx(small, rel=1e-12)
    assert ema_variance(weights, steps, parts) != pytest.approx(small, rel=1e-2)  # as if each were a step


def test_sizes_of_batches():
    steps = torch.arange(10)
    assert Sampling(N, B, 5).sizes(steps).tolist() == [5, 5, 5, 5, 3] * 2
    assert Sampling(N, B, 4).sizes(steps).tolist() == [5] * 10
    assert Sampling(25, B, 5).sizes(steps).tolist() == [5] * 10
    assert Sampling(N, B, 5, independent=True).sizes(steps).tolist() == [5] * 10


@pytest.mark.parametrize("lmbda", [0.0, 0.6, 0.9, 0.95])
@pytest.mark.parametrize("ema_init", INITS)
def test_variance_of_independent_draws(lmbda, ema_init):
    weights, steps = ema_weights(2000, lmbda, ema_init), torch.arange(2000)[-len(ema_weights(2000, lmbda, ema_init)) :]
    endless = Sampling(10**12, 16, 1, independent=True)
    assert ema_variance(weights, steps, endless) == pytest.approx((1 - lmbda) / (1 + lmbda) / 16, rel=1e-9)


def test_variance_of_draws_with_replacement():
    x, mean, _ = population(N, num_params=3)
    trace = float(((x - mean) ** 2).sum(1).mean())  # of the distribution that the draws come from
    weights = ema_weights(12, 0.8, "first_gradient")
    picks = torch.randint(N, (20_000, 12, B), generator=generator(1))
    off = torch.einsum("tsp,s->tp", x[picks].mean(2), weights) - mean
    endless = Sampling(10**12, B, 1, independent=True)
    assert z_score((off**2).sum(1) / trace, ema_variance(weights, torch.arange(12), endless)) < 4


def test_variance_of_independent_draws_without_replacement_inside_a_batch():
    """How `ascent=other_batch` draws: a batch of the whole set would have no noise at all."""
    x, mean, s_square = population(N, num_params=3)
    weights = ema_weights(12, 0.8, "first_gradient")
    orders = torch.rand(20_000, 12, N, generator=generator(2), dtype=torch.float64).argsort(2)[:, :, :B]
    off = torch.einsum("tsp,s->tp", x[orders].mean(2), weights) - mean
    draws = (off**2).sum(1) / s_square
    assert z_score(draws, float((weights**2).sum()) * (1 / B - 1 / N)) < 4
    assert z_score(draws, ema_variance(weights, torch.arange(12), Sampling(N, B, 1, independent=True))) < 4


def test_equal_weights_over_whole_epochs_leave_no_variance():
    equal = torch.full((5,), 0.2, dtype=torch.float64)
    assert ema_variance(equal, torch.arange(5), Sampling(25, 5, 5)) == pytest.approx(0.0, abs=1e-17)
    assert ema_variance(equal / 2, torch.arange(10, 15), Sampling(25, 5, 5)) == pytest.approx(0.0, abs=1e-17)
    by_size = torch.tensor([5, 5, 5, 5, 3], dtype=torch.float64) / N  # each sample counts once
    assert ema_variance(by_size, torch.arange(5), Sampling(N, B, 5)) == pytest.approx(0.0, abs=1e-17)
    assert ema_variance(equal, torch.arange(5), Sampling(N, B, 5)) > 1e-4
    assert ema_variance(equal, torch.arange(1, 6), Sampling(25, 5, 5)) > 1e-3  # straddles two epochs


# ------------------------------------------------------------------------- the EMA's cosine


@pytest.mark.parametrize("ema_init", ["zero", "first_gradient"])
@pytest.mark.parametrize(("first", "num_updates"), [(0, 1), (0, 4), (0, 13), (7, 20)])
@pytest.mark.parametrize("num_probe", [40, 13])
def test_cosine_of_an_ema_with_a_probe(ema_init, first, num_updates, num_probe):
    """Everything known and many dimensions: only the formula is on trial."""
    num, size, num_params, trials = 40, 6, 1500, 100
    sampling, steps = Sampling(num, size, 7), torch.arange(first, first + num_updates)
    x = 0.15 + torch.randn(num, num_params, generator=generator(3), dtype=torch.float64)
    mean, s_square = x.mean(0), float(x.var(0).sum())
    exact = GradientNoise(float(mean @ mean) - s_square / num, s_square, 0.0, size, 2)
    weights = ema_weights(num_updates, 0.8, ema_init)
    means = drawn_means(x, sampling, steps, trials, seed=first)
    m = torch.einsum("tsp,s->tp", means, weights)
    picks = torch.rand(trials, num, generator=generator(4)).argsort(1)[:, :num_probe]
    measured = float(torch.cosine_similarity(m, x[picks].mean(1), dim=1).mean())
    assert ema_cosine(exact, weights, steps, sampling, num_probe) == pytest.approx(measured, abs=0.006)
    independent = Sampling(num, size, 7, independent=True)
    if num_updates > 1:  # one batch alone is drawn alike
        assert abs(ema_cosine(exact, weights, steps, independent, num_probe) - measured) > 0.01
    if num_probe < num:  # without the probe's factor
        assert abs(ema_cosine(exact, weights, steps, sampling, num) - measured) > 0.03
    if num_updates > 4:  # |mu|^2 in the place of the training set's |g|^2
        wrong = GradientNoise(exact.grad_sq - s_square / num, s_square, 0.0, size, 2)
        assert abs(ema_cosine(wrong, weights, steps, sampling, num_probe) - measured) > 0.01
