"""Two runs of one identity: what either measured, and what may not stand together."""

import copy

import pytest

from fsamlab.results.duplicates import add_measured, copies

RATE, SAMPLES = "diagnostics/num_batches", "diagnostics/num_samples"


def joined(row, other, rows=(), other_rows=()):
    """Return row, rows and clashes of a run and its copy; the copy is left as it was."""
    row, rows, before = dict(row), [dict(one) for one in rows], copy.deepcopy((other, other_rows))
    clashes = add_measured(row, rows, other, other_rows)
    assert (other, other_rows) == before
    return row, rows, clashes


def at(step, **values):
    return {"step": step, "epoch": float(step), **{key.replace("___", "/"): value for key, value in values.items()}}


def test_scalars_that_need_no_samples_are_added():
    key = "perturbation/cos_ema"
    other = {f"final/{key}": 0.3}
    rows = [at(1, test___acc1=0.5, time=2.0)]
    row, rows, clashes = joined({"final/test/acc1": 0.5}, other, rows, [at(1, perturbation___cos_ema=0.3, time=9.0)])
    assert (row[f"final/{key}"], clashes) == (0.3, [])
    assert rows[1] == {"step": 1, "epoch": 1.0, "time": 2.0, key: 0.3}  # at the run's own time
    assert joined(row, {f"final/{key}": 0.9}, rows, [at(1, perturbation___cos_ema=0.9)])[:2] == (row, rows)


def checkpoint(step, key, value, **more):
    row = {"measured/step": step, f"measured/{key}": value, f"measured/{SAMPLES}": 64, **more}
    rows = [at(step, **{f"measured/{key}": value, f"measured/{SAMPLES}": 64})]
    return row, rows


@pytest.mark.parametrize("swap", [False, True])
def test_values_at_the_end_are_of_one_checkpoint_the_later(swap):
    early, late = checkpoint(20, "sharpness/one_step", 0.2), checkpoint(50, "curvature/trace", 0.5)
    (one, one_rows), (two, two_rows) = (late, early) if swap else (early, late)
    row, rows, clashes = joined(one, two, one_rows, two_rows)
    assert row == late[0]
    assert clashes == []
    assert sorted(r["step"] for r in rows) == [20, 50]
    assert all(f"measured/{SAMPLES}" in r for r in rows)


@pytest.mark.parametrize("swap", [False, True])
def test_a_quantity_at_two_checkpoints_is_a_curve(swap):
    both = checkpoint(20, "sharpness/one_step", 0.2), checkpoint(50, "sharpness/one_step", 0.5)
    (one, one_rows), (two, two_rows) = both[::-1] if swap else both
    row, rows, _ = joined(one, two, one_rows, two_rows)
    assert row["measured/sharpness/one_step"] == 0.5
    assert sorted((r["step"], r["measured/sharpness/one_step"]) for r in rows) == [(20, 0.2), (50, 0.5)]


def test_of_one_checkpoint_both_count():
    one, two = checkpoint(50, "sharpness/one_step", 0.2), checkpoint(50, "curvature/trace", 0.5)
    row, rows, _ = joined(one[0], two[0], one[1], two[1])
    assert (row["measured/sharpness/one_step"], row["measured/curvature/trace"]) == (0.2, 0.5)
    assert len(rows) == 2


def test_a_later_checkpoint_under_other_conventions_stays_apart():
    one = checkpoint(20, "sharpness/one_step", 0.2)
    other = {"measured/step": 50, "measured/sharpness/one_step": 0.5, f"measured/{SAMPLES}": 7}
    row, rows, clashes = joined(one[0], other, one[1], [at(50, **{"measured/sharpness/one_step": 0.5})])
    assert (row, rows) == one
    assert clashes == ["sharpness and curvature at checkpoints"]


def test_the_number_of_batches_binds_the_decomposition_alone():
    one = {"final/sharpness/one_step": 0.1, "final/perturbation/full_share": 0.2, RATE: 8, SAMPLES: 64}
    other = {"final/curvature/trace": 3.0, "final/perturbation/cos_batch_full": 0.4, RATE: 2, SAMPLES: 64}
    row, _, clashes = joined(one, other)
    assert row["final/curvature/trace"] == 3.0
    assert "final/perturbation/cos_batch_full" not in row
    assert clashes == ["decomposition and noise"]


def test_runs_of_one_identity_stand_together():
    assert copies("abAcB", str.lower) == [["a", "A"], ["b", "B"], ["c"]]
    assert copies(["a", "a"], lambda run: None) == [["a"], ["a"]]
