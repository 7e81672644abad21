"""The tables of the page: results, conventions, numbers as text."""

import pytest
from made import make_run, make_sweep
from test_page import written

from fsamlab.report.gather import gather
from fsamlab.report.page_tables import conventions, duration, mean_std, results


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
    assert [row[-1].text for row in table.rows] == ["2.00x", "2.00x", "1.00x"]


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


def test_samples_go_with_the_seed(tmp_path):
    for optimizer in ("sgd", "sam"):
        for seed in (0, 1):
            summary = {"diagnostics/rho": 0.05, "diagnostics/sample_hash": f"hash{seed}"}
            make_run(tmp_path / "made" / f"{optimizer}{seed}", optimizer, seed, summary=summary)
    assert conventions(gather([tmp_path / "made"])) == [
        "Sharpness and curvature while training: the same rho 0.05 in all runs."
    ]
    make_run(tmp_path / "made" / "z", "fsam", 0, summary={**summary, "diagnostics/sample_hash": "other"})
    assert "runs differ in sample_hash (hash0, " in conventions(gather([tmp_path / "made"]))[0]


def test_conventions_are_said_and_so_is_where_they_differ(tmp_path):
    for seed, batchnorm in enumerate(("eval", "eval", "batch")):
        measured = {"sharpness/one_step": 0.25, "diagnostics/batchnorm": batchnorm}
        make_run(tmp_path / "made" / f"{seed}", seed=seed, summary={"diagnostics/rho": 0.05}, measured=measured)
    assert conventions(gather([tmp_path / "made"])) == [
        "Sharpness and curvature while training: the same rho 0.05 in all runs.",
        "Sharpness and curvature at checkpoints may not be compared: runs differ in batchnorm (eval, batch).",
    ]
    _, page = written(tmp_path / "made")
    assert "runs differ in batchnorm (eval, batch)" in page.text
    assert "one-step sharpness, measured" in page.text


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (180000, "2 d 2 h")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("mean", "std", "unit", "text"),
    [
        (0.8598, 0.01337, "percent", "85.98 ± 1.34"),
        (0.85984, float("nan"), "percent", "85.98"),
        (0.42391, 0.02903, "plain", "0.424 ± 0.029"),
        (1234.5, 321.0, "plain", "1234 ± 321"),
        (0.003967, 4.725e-05, "plain", "0.003967 ± 0.000047"),
        (2.5, 0.0, "plain", "2.5 ± 0"),
        (0.4, 6.8e-17, "plain", "0.4 ± 0"),
        (float("nan"), float("nan"), "plain", "–"),
    ],
)
def test_a_mean_has_the_decimals_of_its_deviation(mean, std, unit, text):
    assert mean_std(mean, std, unit, bold=False).text == text
