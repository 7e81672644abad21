"""What a page keeps of the rows."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsamlab.report.curves import MAX_POINTS, MIN_POINTS, Curves, number, points_per_curve, thin
from fsamlab.rundir.row_file import Rows


@given(length=st.integers(1, 2000), points=st.integers(2, 300))
def test_thinning_keeps_order_the_first_and_the_last(length, points):
    kept = thin(range(length), points)
    assert len(kept) == min(length, points)
    assert kept[0] == 0
    assert kept[-1] == length - 1
    assert kept == sorted(set(kept))
    gaps = [b - a for a, b in pairwise(kept)]
    assert not gaps or max(gaps) - min(gaps) <= 1  # evenly


@pytest.mark.parametrize(("value", "kept"), [(0.123456789, 0.1235), (7, 7), (float("nan"), None), ("batch", None)])
def test_numbers(value, kept):
    assert number(value) == kept
    assert number(float("inf")) is None


def test_a_page_of_many_curves_keeps_fewer_points_of_each():
    assert points_per_curve(20) == MAX_POINTS
    assert points_per_curve(600) == 122
    assert points_per_curve(10**9) == MIN_POINTS


def test_runs_with_the_same_steps_share_a_grid_and_have_their_own_times():
    curves = Curves(num_points=10)
    for run in (0, 1):
        rows = [{"step": s, "epoch": s / 2, "time": s + run, "val/acc1": 0.1 * s} for s in (2, 4)]
        rows.insert(1, {"step": 3, "epoch": 1.5, "time": 3.5, "perturbation/d_ratio": 1.0})
        curves.add(run, Rows(rows))
    assert curves.by_metric["val/acc1"] == [(0, 0, [0.2, 0.4]), (1, 0, [0.2, 0.4])]
    assert curves.grids[0] == {"step": [2, 4], "epoch": [1.0, 2.0]}
    assert curves.times["1 0"] == [3, 5]
    assert [run for run, _, _ in curves.by_metric["perturbation/d_ratio"]] == [0, 1]
    assert set(curves.by_metric) == {"val/acc1", "perturbation/d_ratio"}  # axes are no metrics
    assert not curves.thinned


def test_a_key_in_rows_of_several_kinds_is_one_curve_in_order():
    rows = [{"step": s, "epoch": s, "train/loss": 1.0 * s, **({"val/loss": 1.0} if s % 2 else {})} for s in range(1, 6)]
    curves = Curves(num_points=10)
    curves.add(0, Rows(rows))
    assert curves.by_metric["train/loss"][0][2] == [1, 2, 3, 4, 5]


def test_what_is_not_finite_is_counted_and_left_out():
    curves = Curves(num_points=10)
    values = [1.0, float("nan"), float("inf")]
    rest = {"val/loss": float("nan"), "diagnostics/batchnorm": "eval"}
    curves.add(0, Rows([{"step": i, "epoch": i, "train/loss": v, **rest} for i, v in enumerate(values)]))
    assert curves.by_metric["train/loss"] == [(0, 0, [1.0, None, None])]
    assert "val/loss" not in curves.by_metric
    assert {k: n for k, n in curves.not_finite.items() if n} == {"train/loss": 2, "val/loss": 3}
    assert curves.without_values == ["val/loss"]


def test_long_curves_are_thinned_and_the_page_knows():
    curves = Curves(num_points=5)
    curves.add(0, Rows([{"step": s, "epoch": s, "train/loss": float(s)} for s in range(101)]))
    assert curves.by_metric["train/loss"][0][2] == [0, 25, 50, 75, 100]
    assert curves.thinned
    assert curves.longest == 101
