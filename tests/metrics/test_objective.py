"""The objective: a metric of the validation data, at the best or the last epoch, and never one of the test data."""

import json

import pytest
from support.made_runs import make_run

from fsamlab.metrics import Headline
from fsamlab.metrics.objective import objective, objective_column
from fsamlab.rundir.objective import objective_of

MSE = Headline("mse", "mean squared error", higher_is_better=False, percent=False)
SUMMARY = {"best/val/acc1": 0.9, "final/val/acc1": 0.8, "best/val/loss": 0.3, "best/test/acc1": 0.1}


@pytest.mark.parametrize(
    ("metric", "at", "column"),
    [
        (None, "best", "best/val/acc1"),
        (None, "last", "final/val/acc1"),
        ("val/loss", "best", "best/val/loss"),
        ("val/loss", "last", "final/val/loss"),
        ("final/val/ema_acc1", "best", "final/val/ema_acc1"),
        ("best/val/loss", "last", "best/val/loss"),
    ],
)
def test_metric_and_epoch_name_a_column_of_the_summary(metric, at, column):
    assert objective_column(metric, at=at) == column


def test_without_a_metric_the_headline_of_the_task_counts():
    assert objective_column(headline=MSE) == MSE.chosen == "best/val/mse"
    assert objective_column(headline=MSE, at="last") == MSE.chosen_at_end
    record = {f"task/{key}": value for key, value in MSE.record().items()}
    assert objective({"best/val/mse": 4, "best/val/acc1": 0.5, **record}) == 4.0


@pytest.mark.parametrize("metric", ["test/acc1", "best/test/acc1", "final/test/loss", "train/loss", "acc1", "val/", ""])
def test_nothing_but_validation_chooses(metric):
    with pytest.raises(ValueError, match="must be a metric of the validation data"):
        objective_column(metric)


def test_the_value_is_read_from_the_summary():
    assert objective(SUMMARY) == 0.9
    assert objective(SUMMARY, at="last") == 0.8
    assert objective(SUMMARY, "val/loss") == 0.3
    assert objective({"best/test/acc1": 0.1}) is None  # no validation split
    assert objective({"best/val/acc1": None}) is None


def test_only_a_finished_run_has_an_objective(tmp_path):
    done, failed = make_run(tmp_path / "a"), make_run(tmp_path / "b", status="failed")
    for run in (done, failed):
        (run / "summary.json").write_text(json.dumps(SUMMARY))
    assert objective_of(done) == 0.9
    assert objective_of(done, "val/acc1", "last") == 0.8
    assert objective_of(failed) is None
