"""What a task declares of its headline metric: in the records of a run, and in the rows of the metric table."""

import math

import pytest

from fsamlab import metrics
from fsamlab.metrics import CLASSIFICATION, Headline, columns_of
from fsamlab.task import Classification, Regression

MSE = Regression().declaration
HITS = Headline("hits", "hits within 0.5", higher_is_better=True, percent=True)
MAE = Headline("mae_of_mine", "mean absolute error", higher_is_better=False, percent=False)


def test_the_tasks_of_the_package_declare_their_headline():
    assert Classification(0.1, top5=True).declaration == CLASSIFICATION
    assert Headline("mse", "mean squared error", higher_is_better=False, percent=False) == MSE


@pytest.mark.parametrize("headline", [MSE, HITS, MAE, CLASSIFICATION])
def test_a_record_gives_the_headline_back(headline):
    assert Headline.of(headline.record()) == headline
    assert Headline.of({f"task/{key}": value for key, value in headline.record().items()}, "task/") == headline


def test_a_run_without_a_record_is_a_classification():
    assert CLASSIFICATION.record() == {}
    assert Headline.of({}) == CLASSIFICATION
    assert Headline.of({"task/headline": math.nan}, "task/") == CLASSIFICATION  # in a frame beside other runs


@pytest.mark.parametrize(
    ("headline", "words", "heading"),
    [
        (CLASSIFICATION, "accuracy in %", "%"),
        (MSE, "mean squared error, lower is better", "mse"),
        (HITS, "hits within 0.5 in %", "hits %"),
    ],
)
def test_words(headline, words, heading):
    assert (headline.words, headline.heading) == (words, heading)


def test_the_declared_metric_has_title_axis_unit_and_direction():
    assert metrics.title("test/hits", (HITS,)) == "test hits within 0.5, %"
    assert metrics.axis("best/test/hits", (HITS,)) == "test hits within 0.5 at best validation epoch (%)"
    assert metrics.factor("final/test/hits", (HITS,)) == 100
    assert metrics.factor("final/test/hits") == 1  # nobody has declared it
    assert not metrics.higher_is_better("final/test/mae_of_mine", (MAE,))
    assert not metrics.higher_is_better("best/test/mse", (MSE,))
    assert metrics.higher_is_better("best/test/acc1", (MSE, CLASSIFICATION))


def test_the_headline_is_first_on_the_page():
    keys = ["val/r2", "val/mae_of_mine", "test/r2", "test/mae_of_mine"]
    assert metrics.ordered(keys, (MAE,))[:2] == ["test/mae_of_mine", "val/mae_of_mine"]
    assert metrics.of("test/mse", (MSE,)).headline == 1
    assert metrics.of("test/mse", (MSE,)).title == "test mean squared error"  # the table's own
    assert not metrics.of("test/mse").headline


def test_the_rows_of_the_accuracy_are_those_of_the_table():
    keys = ("val/acc1", "test/acc1", "train/acc1", "best/test/acc1", "final/test/acc1")
    assert [metrics.of(key, (CLASSIFICATION,)) for key in keys] == [metrics.of(key) for key in keys]


def test_columns_of_the_results():
    columns = columns_of(MSE)
    assert list(columns) == ["best/test/mse", "final/test/mse", "best/val/mse"]
    assert columns["best/val/mse"].text == "the validation mean squared error that chose the epoch"
