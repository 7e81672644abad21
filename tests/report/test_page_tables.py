"""The tables of the page: results, runs that did not finish, numbers as text."""

import pytest
from support.made_runs import make_run, make_sweep
from support.pages import data_of, written

from fsamlab.report.gather import gather
from fsamlab.report.page_tables import duration, results, spread_cell, unfinished


def test_the_results_are_means_over_seeds_and_the_clear_best_is_bold(tmp_path):
    table = results(gather([make_sweep(tmp_path / "made")]))
    assert [h[0] for h in table.headings][:4] == [
        "optimizer",
        "n",
        "test, best epoch,\u00a0%",
        "test, at the end,\u00a0%",
    ]
    shown = [[cell.text for cell in row][:4] for row in table.rows]
    assert shown == [  # accuracies level + .01 seed + .01
        ["F-SAM", "3", "62.00 ± 1.00", "72.00 ± 1.00"],
        ["SAM", "3", "52.00 ± 1.00", "62.00 ± 1.00"],
        ["SGD", "3", "42.00 ± 1.00", "52.00 ± 1.00"],
    ]
    assert [[cell.bold for cell in row][3] for row in table.rows] == [True, False, False]
    assert [row[-1].text for row in table.rows] == ["20.0", "20.0", "10.0"]


MSE = {"headline": "mse", "title": "mean squared error", "higher_is_better": False, "percent": False}


def test_the_results_of_a_regression_are_errors_and_the_lowest_is_the_best(tmp_path):
    recorded = {f"task/{key}": value for key, value in MSE.items()}
    for optimizer, level in (("sgd", 0.6), ("sam", 0.5)):
        for seed in (0, 1):
            value = level + 0.01 * seed
            rows = [{"step": 10, "epoch": 1.0, "time": 1.0, "test/mse": value, "test/acc1": 0.0}]
            found = {"best/test/mse": value - 0.1, "best/val/mse": 0.3, **recorded}
            make_run(tmp_path / "made" / f"{optimizer}{seed}", optimizer, seed, epochs=1, rows=rows, summary=found)
    gathered = gather([tmp_path / "made"])
    table = results(gathered)
    headings = [h[0] for h in table.headings][2:6]
    assert headings == [f"mse: test, {h}" for h in ("best epoch", "at the end", "at the end − reference")] + [
        "mse: validation, best"
    ]
    assert "lower, which is better" in table.headings[4][1]
    lines = {row[0].text: row[2:5] for row in table.rows}
    assert [cell.text for cell in lines["SAM"]] == [
        "0.4050 ± 0.0071",
        "0.5050 ± 0.0071",
        "-0.10 [-0.10, -0.10] 2/2*",
    ]
    assert [cell.bold for cell in lines["SAM"]] == [True, True, False]
    assert not any(cell.bold for cell in lines["SGD"])
    data = data_of(written(tmp_path / "made")[0])
    assert data["results"] == ["best/test/mse", "final/test/mse"]
    assert "final/test/mse" not in data["percent"]
    first = next(metric for metric in data["metrics"] if metric["key"] == "test/mse")
    assert first["headline"]


def test_gains_over_sgd_and_the_cost_of_a_whole_training(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "made" / f"sgd{seed}", "sgd", seed, summary={"cost/steps": 100, "cost/passes": 10})
        make_run(tmp_path / "made" / f"sam{seed}", "sam", seed, summary={"cost/steps": 150, "cost/passes": 20})
    table = results(gather([tmp_path / "made"]))
    headings = [h[0] for h in table.headings]
    columns = [headings.index(h) for h in ("test, at the end − reference", "passes", "time")]
    found = {row[0].text: [row[i].text for i in columns] for row in table.rows}
    assert found == {"SAM": ["+10.00 [+10.00, +10.00] 2/2*", "2.00x", "3.00x"], "SGD": ["–", "1.00x", "1.00x"]}
    assert table.references == ("SGD at equal compute", "SGD", "SAM")
    assert "not at equal compute" in table.notes[0]
    options = {row[0].text: [text for text, _ in row[columns[0]].options] for row in table.rows}
    assert options["SGD"] == ["–", "–", "-10.00 [-10.00, -10.00] 0/2*"]
    assert options["SAM"][1:] == ["+10.00 [+10.00, +10.00] 2/2*", "–"]


def test_a_cell_says_where_fewer_runs_have_the_value(tmp_path):
    for seed in range(3):
        measured = {"curvature/lambda_max": 10.0 + seed} if seed else None
        make_run(tmp_path / "made" / f"s{seed}", seed=seed, measured=measured)
    table = results(gather([tmp_path / "made"]))
    column = [h[0] for h in table.headings].index("lambda_max, measured")
    assert table.rows[0][1].text == "3"
    assert table.rows[0][column].text == "11.50 ± 0.71 (n\u00a0=\u00a02)"


def test_settings_that_are_compared_stand_together(tmp_path):
    for i, (optimizer, model) in enumerate([("sgd", "a"), ("sgd", "b"), ("sam", "a"), ("sam", "b")]):
        for seed in (0, 1):
            make_run(tmp_path / "made" / f"{i}-{seed}", optimizer, seed, model=model)
    table = results(gather([tmp_path / "made"]))
    assert [[cell.text for cell in row][:2] for row in table.rows] == [
        ["SGD", "a"],
        ["SAM", "a"],
        ["SGD", "b"],
        ["SAM", "b"],
    ]
    column = [h[0] for h in table.headings].index("test, at the end,\u00a0%")
    assert [row[column].bold for row in table.rows] == [False, True, False, True]


def test_infinite_values_are_missing(tmp_path):
    for seed, value in enumerate((1.0, float("inf"), 3.0, float("nan"))):
        measured = {"curvature/lambda_max": value, "sharpness/one_step": float("-inf")}
        make_run(tmp_path / "made" / f"s{seed}", seed=seed, measured=measured)
    table = results(gather([tmp_path / "made"]))
    headings = [h[0] for h in table.headings]
    assert table.rows[0][headings.index("lambda_max, measured")].text == "2.0 ± 1.4 (n\u00a0=\u00a02)"
    assert "one-step sharpness, measured" not in headings
    written(tmp_path / "made")


def test_a_run_that_went_on_after_it_diverged_is_listed(tmp_path):
    make_run(tmp_path / "made" / "s0", summary={"train/diverged_at": 17})
    make_run(tmp_path / "made" / "s1", seed=1)
    found = unfinished(gather([tmp_path / "made"]))
    assert [(run["run"], run["status"], run["reason"]) for run in found] == [
        ("s0", "finished", "diverged at step 17: the loss was not finite")
    ]
    page, _ = written(tmp_path / "made")
    assert [run["diverged"] for run in data_of(page)["runs"]] == [17, None]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (180000, "2 d 2 h")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("mean", "std", "percent", "text"),
    [
        (0.8598, 0.01337, True, "85.98 ± 1.34"),
        (0.85984, float("nan"), True, "85.98"),
        (0.42391, 0.02903, False, "0.424 ± 0.029"),
        (1234.5, 321.0, False, "1234 ± 321"),
        (0.003967, 4.725e-05, False, "0.003967 ± 0.000047"),
        (2.5, 0.0, False, "2.5 ± 0"),
        (0.4, 6.8e-17, False, "0.4 ± 0"),
        (float("nan"), float("nan"), False, "–"),
    ],
)
def test_a_mean_has_the_decimals_of_its_deviation(mean, std, percent, text):
    assert spread_cell(mean, std, percent, bold=False).text == text
