"""Tables and figures of runs whose headline metric is an error, and of runs with several headlines."""

import re

import pytest
from support.made_frames import frame, one_run, rows_of

from fsamlab import figures
from fsamlab.metrics import CLASSIFICATION, Headline
from fsamlab.results.settings import clear_best
from fsamlab.results.study import Study
from fsamlab.results.summary import print_settings
from fsamlab.task import Regression
from fsamlab.terminal.text import console

MSE = Regression().declaration
HITS = Headline("hits", "hits within 0.5", higher_is_better=True, percent=True)


def of_task(method, seed, end, headline=MSE, **columns):
    run = one_run(method, seed, None, **columns)
    del run["final/test/acc1"]
    recorded = {f"task/{key}": value for key, value in headline.record().items()}
    return {**run, **recorded, headline.at_end: end, headline.at_best: end - 0.01}


@pytest.fixture
def errors():
    runs = [of_task(m, s, v + 0.01 * s) for m, v in (("sgd", 0.6), ("sam", 0.5), ("fsam", 0.9)) for s in (0, 1, 2)]
    return Study(frame(*runs))


def test_the_lowest_error_is_the_best_and_below_sgd_is_ahead(errors):
    table = errors.settings()
    (best,) = clear_best(table, "final/test/mse", errors.headlines)
    assert table.loc[best, "optimizer.name"] == "sam"
    ahead = {table.loc[i, "optimizer.name"]: g.ahead for i, g in table["final/test/mse gain"].items() if g is not None}
    assert ahead == {"sam": 3, "fsam": 0}


def test_the_table_at_the_end_of_a_sweep(errors, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_settings(errors, console())
    text = capsys.readouterr().out
    assert "Test mean squared error, lower is better, mean ± standard deviation over seeds" in text
    assert re.search(r"sam +│ 3 │ +0.500 ± 0.010 │ +0.510 ± 0.010", text)
    assert "accuracy" not in text


def test_runs_of_two_tasks_have_two_tables(errors, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    hits = [of_task("sgd", seed, 0.8, HITS) for seed in (0, 1)]
    both = Study(frame(*errors.runs.to_dict("records"), *hits, one_run("sgd", 0, 0.9, 0.7)))
    assert both.headlines == (MSE, HITS, CLASSIFICATION)
    print_settings(both, console())
    text = capsys.readouterr().out
    titles = re.findall(r"^ *Test (.*), mean ±", text, re.M)
    assert titles == ["mean squared error, lower is better", "hits within 0.5 in %", "accuracy in %"]
    assert "79.00 ± 0.00" in text
    assert "90.00" in text
    with pytest.raises(ValueError, match="different headline metrics, mse and hits and acc1: give runs of one task"):
        both.headline  # noqa: B018


def test_tables_for_a_notebook(errors):
    table = figures.accuracy_table(errors)
    assert table.startswith("Test mean squared error, lower is better, mean ± standard deviation over n seeds")
    assert re.search(r"\| SAM +\| 3 \| \*\*0.500 ± 0.010\*\* \| \*\*0.510 ± 0.010\*\*", table)
    paired = figures.paired_table(errors)
    assert "with the same seed: mean [95 % t interval], seeds in which it is lower, which is better" in paired
    assert re.search(r"\| SAM +\| -0.10* \[-0.10*, -0.10*\] 3/3\*", paired)


def test_figures_show_the_headline_of_the_runs(errors):
    (axes,) = figures.by_method(errors).axes
    assert axes.get_xlabel() == "test mean squared error at the end"
    hits = Study(frame(*(of_task(m, s, 0.8 + 0.01 * s, HITS) for m in ("sgd", "sam") for s in (0, 1))))
    (axes,) = figures.by_method(hits).axes
    assert axes.get_xlabel() == "test hits within 0.5 at the end (%)"
    assert axes.get_xlim()[0] > 70
    (axes,) = figures.curves(rows_of(hits.runs, test___hits=[0.5, 0.6]), hits, "test/hits").axes
    assert axes.get_ylabel() == "test hits within 0.5 (%)"
    assert axes.get_ylim()[0] > 40
