"""Paired statistics against scipy's own tests, the closed testing principle, published sample sizes, and chance."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fsamlab.results.paired import Paired, holm, pairs_needed


@pytest.fixture
def differences():
    return np.random.default_rng(0).normal(0.3, 1.0, 12)


def test_interval_and_tests_are_those_of_scipy(differences):
    ours = Paired.of(differences.tolist())
    theirs = stats.ttest_1samp(differences, 0.2, alternative="greater")
    assert ours.p_above(0.2) == pytest.approx(theirs.pvalue, rel=1e-12)
    assert ours.p_below(0.2) == pytest.approx(1 - theirs.pvalue, rel=1e-12)
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.9)
    assert ours.interval(0.1) == pytest.approx((low, high), rel=1e-12)
    assert ours.above + ours.below == 12
    assert ours.p_sign == pytest.approx(stats.binomtest(ours.above, 12).pvalue)


def test_one_pair_shows_nothing():
    one = Paired.of([5.0])
    assert one.p_above(0) == one.p_below(10) == 1.0
    assert all(math.isnan(end) for end in one.interval(0.05))


def test_equal_differences_are_certain_and_zero_is_no_difference():
    same = Paired.of([0.5, 0.5])
    assert (same.p_above(0), same.p_above(0.5), same.p_below(0.5), same.p_below(1)) == (0.0, 1.0, 1.0, 0.0)
    zero = Paired.of([0.0, 0.0, 0.0])
    assert (zero.p_above(0), zero.p_below(0), zero.p_sign, zero.above, zero.below) == (1.0, 1.0, 1.0, 0, 0)


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan], [math.inf, 0.0]])
def test_no_differences_and_values_that_are_not_finite_are_refused(wrong):
    with pytest.raises(ValueError, match="finite differences"):
        Paired.of(wrong)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """A hypothesis is rejected if each set with it is rejected: its p-value is the largest one of these sets."""
    everyone = range(len(p_values))
    sets = [set(s) for n in range(1, len(p_values) + 1) for s in itertools.combinations(everyone, n)]
    bonferroni = [min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets]
    expected = [max(p for s, p in zip(sets, bonferroni) if i in s) for i in everyone]
    assert holm(p_values) == pytest.approx(expected, abs=1e-15)


def test_chance_shows_a_difference_of_0_in_a_fortieth_of_all_studies():
    """Of 4000 studies without a difference 2.5 % have p <= .025; the bounds are four standard deviations away."""
    draws = np.random.default_rng(2).normal(0, 1, (4000, 5))
    share = np.mean([Paired.of(study).p_above(0) <= 0.025 for study in draws])
    assert 0.015 < share < 0.035


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_number_of_pairs_is_the_textbooks(effect, n):
    """Sample sizes of G*Power 3.1 for a two-sided paired t test, alpha .05, power .8."""
    assert pairs_needed(2.0, -2.0 * effect) == n


def test_pairs_needed_refuses_what_has_no_answer():
    assert pairs_needed(0.0, 1.0) == 2
    for wrong in [dict(std=1.0, difference=0.0), dict(std=-1.0, difference=1.0), dict(std=1, difference=1, power=0.01)]:
        with pytest.raises(ValueError, match="pairs_needed"):
            pairs_needed(**wrong)
