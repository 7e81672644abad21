"""`fsamlab compare`: what it prints, and its exit codes."""

import json

import pytest
import yaml
from support.reference_runs import put_run

from fsamlab.command.main import main
from fsamlab.results.comparison import beside, comparison_table
from fsamlab.results.loading import load
from fsamlab.results.reference_files import known_references

SAM = "optimizer=sam"


@pytest.fixture
def compare(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")

    def run(*words):
        code = main(["compare", *map(str, words)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    put_run(root / "sam-s0", SAM, curve=(60.0, 80.9, 80.7))
    put_run(root / "sam-s1", SAM, seed=1, curve=(60.0, 81.1, 80.9))
    return root


def test_both_values_stand_beside_the_reference(compare, runs):
    code, out, _ = compare(runs, "--reference", "nblt-sam")
    assert code == 0
    rows = [line.strip("│").split("│") for line in out.splitlines() if line.startswith("│ SAM")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["SAM", "2", "last", "80.80 ± 0.14", "80.78", "+0.02", "nblt-sam", "same"],
        ["SAM", "2", "best on test", "81.00 ± 0.14", "80.88", "+0.12", "nblt-sam", "same"],
    ]
    assert "nblt-sam: SAM, official log; seed 1; nblt/F-SAM at 2e2f989" in out
    assert "it selects nothing" in out


def test_inside_the_band(compare, runs):
    code, out, _ = compare(runs, "--band", "0.3")
    assert code == 0
    assert "inside the band of 0.3: all runs and means beside nblt-sam, figure1-sam" in out


def test_outside_the_band_names_the_run_and_the_mean(compare, runs):
    put_run(runs / "sam-s2", SAM, seed=2, curve=(60.0, 78.5, 78.0))
    code, out, _ = compare(runs, "--band", "0.5", "--reference", "nblt-sam")
    assert code == 3
    said = [
        line.removeprefix("outside the band: ") for line in out.splitlines() if line.startswith("outside the band: ")
    ]
    assert said == [
        "SAM, mean of 3 runs: last epoch 79.87, nblt-sam has 80.78: -0.91, more than 0.5",
        "run sam-s2: last epoch 78.00, nblt-sam has 80.78: -2.78, more than 0.5",
        "SAM, mean of 3 runs: best epoch on test data 80.17, nblt-sam has 80.88: -0.71, more than 0.5",
        "run sam-s2: best epoch on test data 78.50, nblt-sam has 80.88: -2.38, more than 0.5",
    ]


def test_a_difference_of_exactly_the_band_is_inside(compare, tmp_path):
    put_run(tmp_path / "runs" / "sam", SAM, curve=(81.18, 81.08))
    assert compare(tmp_path / "runs", "--band", "0.3")[0] == 0
    assert compare(tmp_path / "runs", "--band", "0.29")[0] == 3


def test_another_lambda_is_shown_and_not_checked(compare, tmp_path):
    put_run(tmp_path / "runs" / "fsam", "optimizer=fsam", "optimizer.lmbda=0.9", curve=(70.0, 81.4))
    code, out, _ = compare(tmp_path / "runs", "--band", "5")
    assert code == 4
    assert "F-SAM does not have the setting of nblt-fsam-0.95: optimizer.lmbda 0.9 (reference 0.95)" in out
    assert "F-SAM does not have the setting of nblt-fsam-0.6: optimizer.lmbda 0.9 (reference 0.6)" in out
    assert "nothing checked: no run has the setting of a reference" in out
    assert "81.40" in out


@pytest.mark.parametrize("band", [(), ("--band", "50")])
def test_nothing_compared_is_no_success(compare, tmp_path, band):
    put_run(tmp_path / "runs" / "sgd", "optimizer=sgd")
    code, out, _ = compare(tmp_path / "runs", *band)
    assert code == 4
    assert out.splitlines() == [
        "no reference has the method and data set of SGD",
        "nothing checked: no run has the setting of a reference",
    ]


def test_an_unfinished_run_fails_a_check_alone(compare, runs):
    put_run(runs / "sam-s2", SAM, seed=2, status="preempted")
    put_run(runs / "sgd-s2", "optimizer=sgd", seed=2, status="failed")  # no reference: of no interest
    code, out, _ = compare(runs, "--band", "0.5")
    assert code == 5
    assert [line for line in out.splitlines() if "not finished" in line] == ["not finished: run sam-s2 is preempted"]
    assert compare(runs)[0] == 0
    code, out, _ = compare(runs / "sam-s2")
    assert (code, "not finished: run sam-s2 is preempted" in out) == (5, True)


def test_a_missing_value_fails_a_check(compare, runs):
    (runs / "sam-s0" / "metrics.jsonl").write_text("")
    code, out, _ = compare(runs, "--band", "0.5")
    assert code == 6
    assert "no value: run sam-s0 has no test/acc1 in metrics.jsonl" in out
    for run in runs.iterdir():
        (run / "metrics.jsonl").write_text("")
        (run / "summary.json").write_text("{}")
    assert compare(runs)[0] == 6


def test_a_file_of_a_user_states_its_band(compare, runs, tmp_path):
    setting = {"data.name": "cifar100", "model.name": "resnet18", "optimizer.name": "sam"}
    mine = {"name": "mine", "title": "ours", "source": {"repository": "lab"}, "setting": setting, "unknown": "all else"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"references": [mine | {"values": {"last": {"mean": 81.5}}, "band": 0.5}]}))
    code, out, _ = compare(runs, "--reference", path)
    assert code == 3
    assert "nblt-sam" not in out
    assert "run sam-s0: last epoch 80.70, mine has 81.50: -0.80, more than 0.5" in out
    assert compare(runs, "--reference", path, "--band", "1")[0] == 0


def test_a_named_reference_of_another_setting_is_shown_with_what_differs(compare, runs):
    code, out, _ = compare(runs, "--reference", "nblt-fsam-0.6")
    assert code == 4
    assert "SAM does not have the setting of nblt-fsam-0.6: optimizer.name sam (reference fsam)" in out
    code, out, _ = compare(runs, "--reference", "atlas-cifar10-sam")
    assert code == 4
    assert "which this package does not have" in out


def test_json(compare, runs):
    code, out, _ = compare(runs, "--json", "--band", "0.15")
    found = json.loads(out)
    assert code == found["exit"] == 3
    (row, _) = found["groups"]
    assert row["reference"] == "nblt-sam"
    assert row["difference last"] == pytest.approx(0.02)
    assert row["reference unstated"] is None
    assert [run["values"]["best_on_test"] for run in row["runs"]] == pytest.approx([80.9, 81.1])
    assert [run["best_epoch"] for run in row["runs"]] == [2.0, 2.0]


def test_the_list_has_every_reference(compare):
    code, out, _ = compare("--list")
    assert code == 0
    names = [one.name for one in known_references()]
    assert all(f"\n{name}: " in out for name in names)
    assert [one["name"] for one in json.loads(compare("--list", "--json")[1])] == names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--band", "0"), "--band"),
        (("--band", "nan"), "--band"),
        (("--reference", "nblt-sma"), "no such reference (did you mean nblt-sam?)"),
        (("--reference", "none.yaml"), "none.yaml: no such file"),
        (("elsewhere",), "elsewhere"),
    ],
)
def test_wrong_words_are_one_line(compare, runs, words, said):
    code, _, err = compare(runs, *words)
    assert code == 1
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_the_table_for_notebooks(runs):
    table = comparison_table(beside(load(runs), known_references()))
    assert list(table["reference"]) == ["nblt-sam", "figure1-sam"]
    assert table["best_on_test mean"].tolist() == pytest.approx([81.0, 81.0])
    assert table["n"].tolist() == [2, 2]
    assert table["differs in"].tolist() == ["", ""]
