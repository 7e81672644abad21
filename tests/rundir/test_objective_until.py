"""The objective of a run that is still under way: from its rows until an epoch, however far it has come since."""

import json

import pytest

from fsamlab.rundir.objective import objective_until, reached

ROWS = [
    {"step": 5, "epoch": 0.5, "train/loss": 2.0},
    {"step": 10, "epoch": 1.0, "val/acc1": 0.5, "val/loss": 1.5, "test/acc1": 0.9},
    {"step": 20, "epoch": 2.0, "val/acc1": 0.7, "val/loss": 1.4, "test/acc1": 0.1},
    {"step": 30, "epoch": 3.0, "val/acc1": 0.7, "val/loss": 1.0, "test/acc1": 0.95},
    {"step": 40, "epoch": 4.0, "val/acc1": 0.6, "val/loss": 0.9},
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "status.json").write_text(json.dumps({"status": "paused"}))
    return tmp_path


@pytest.mark.parametrize(
    ("until", "metric", "at", "value"),
    [
        (1, None, "best", 0.5),
        (3, None, "best", 0.7),
        (None, None, "best", 0.7),
        (None, None, "last", 0.6),
        (3, None, "last", 0.7),
        (None, "val/loss", "best", 1.4),  # at the epoch that the headline chooses, the first of equal ones
        (None, "val/loss", "last", 0.9),
        (None, "final/val/loss", "best", 0.9),
        (0, None, "best", None),
        (None, "val/mse", "best", None),
    ],
)
def test_the_value_until_an_epoch(run, until, metric, at, value):
    assert objective_until(run, until, metric, at).value == value


def test_of_a_regression_lower_is_better(run):
    task = {"headline": "loss", "title": "loss", "higher_is_better": False, "percent": False}
    (run / "status.json").write_text(json.dumps({"status": "running", "task": task}))
    found = objective_until(run, 3)
    assert (found.column, found.value, found.headline.higher_is_better) == ("best/val/loss", 1.0, False)


def test_a_value_that_is_not_finite_is_not_the_best_one(run):
    row = json.dumps({"step": 1, "epoch": 0.1, "val/acc1": float("nan")}) + "\n"
    (run / "metrics.jsonl").write_text(row + (run / "metrics.jsonl").read_text())
    assert objective_until(run, None).value == 0.7


def test_nothing_is_chosen_on_test_data(run):
    with pytest.raises(ValueError, match="nothing is chosen on test"):
        objective_until(run, None, "test/acc1")


@pytest.mark.parametrize(("until", "there"), [(1, True), (4, True), (5, False), (None, False)])
def test_whether_a_run_has_come_to_an_epoch(run, until, there):
    assert reached(run, until) is there
