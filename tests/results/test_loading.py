"""Directories of runs -> frames: several at once, damaged rows, runs that are in two sweeps."""

import json

import pytest
import yaml

from fsamlab.report import figures
from fsamlab.storage.reading import Damaged


def make_run(directory, seed=0, status="finished", rows=(), measured=(), **summary):
    """A run directory; its run_id follows from the seed, `___` in keys is a slash."""
    directory.mkdir(parents=True)
    config = {"name": directory.parent.name, "seed": seed, "optimizer": {"name": "sam", "rho": 0.2}}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "status.json").write_text(json.dumps({"status": status, "run_id": f"sam-s{seed}"}))
    named = {key.replace("___", "/"): value for key, value in summary.items()}
    (directory / "summary.json").write_text(json.dumps({"final/test/acc1": 0.5, **named}))
    lines = [{"step": 10 * (i + 1), "epoch": i + 1.0, **row} for i, row in enumerate(rows)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if measured:
        (directory / "measurements").mkdir()
        lines = [{"step": 20, "epoch": 2.0, "measured": "2026", **row} for row in measured]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / "measurements" / "last.jsonl").write_text(text)
    return directory


def test_damaged_rows_are_left_out_with_a_warning(tmp_path):
    rows = [{"test/acc1": 0.4}, {"test/acc1": 0.5}]
    bad, _ = (make_run(tmp_path / f"s{seed}", seed, rows=rows) for seed in (0, 1))
    with (bad / "metrics.jsonl").open("a") as f:
        f.write("{broken\n")
    with pytest.warns(UserWarning, match=r"s0/metrics\.jsonl, line 3: not a JSON object.*left out") as caught:
        runs, rows = figures.load(tmp_path)
    assert caught[0].filename == __file__
    assert runs["final/test/acc1"].tolist() == [0.5, 0.5]
    assert set(rows["directory"]) == {str(tmp_path / "s1")}
    with pytest.raises(Damaged, match=r"s0/metrics\.jsonl, line 3"):
        figures.load(tmp_path, strict=True)


def test_several_directories(tmp_path):
    make_run(tmp_path / "b" / "s0", 0, rows=[{"test/acc1": 0.4}])
    make_run(tmp_path / "a" / "s1", 1, rows=[{"test/acc1": 0.4}])
    runs, rows = figures.load(tmp_path / "b", str(tmp_path / "a"), tmp_path / "b" / "s0")
    assert runs["seed"].tolist() == [0, 1]  # as given, and a directory once
    assert len(rows) == 2
    with pytest.raises(ValueError, match="nothing: no runs here"):
        figures.load(tmp_path / "a", tmp_path / "nothing")
    with pytest.raises(ValueError, match="needs a directory"):
        figures.load()


def test_a_run_of_two_sweeps_is_there_once_as_in_the_first(tmp_path):
    first = make_run(tmp_path / "one" / "s0", rows=[{"val/acc1": 0.4}], final___val___acc1=0.4)
    make_run(tmp_path / "two" / "s0", rows=[{"val/acc1": 0.9}], final___val___acc1=0.9)
    make_run(tmp_path / "two" / "s1", 1, status="failed", rows=[{"val/acc1": 0.9}])
    make_run(tmp_path / "three" / "s1", 1, status="failed")  # not finished: two rows
    runs, rows = figures.load(*(tmp_path / name for name in ("one", "two", "three")))
    assert runs["directory"].tolist() == [str(first), str(tmp_path / "two" / "s1"), str(tmp_path / "three" / "s1")]
    assert runs.loc[0, "final/val/acc1"] == 0.4
    assert rows.loc[rows["directory"] == str(first), "val/acc1"].tolist() == [0.4]
    assert str(tmp_path / "two" / "s0") not in set(rows["directory"])
    assert figures.by_method(runs)  # no seed more than once


@pytest.mark.parametrize("swap", [False, True])
def test_of_a_run_of_two_sweeps_the_one_with_more_measured_values_is_there(tmp_path, swap):
    more = {"sharpness/one_step": 0.1, "diagnostics/rho": 0.05}
    make_run(tmp_path / "less" / "s0", rows=[{"test/acc1": 0.4}])
    whole = make_run(tmp_path / "more" / "s0", rows=[{"test/acc1": 0.4}], measured=[more])
    study = figures.load(*(tmp_path / name for name in (("more", "less") if swap else ("less", "more"))))
    runs, rows = study
    assert runs["directory"].tolist() == [str(whole)]
    assert rows["measured/sharpness/one_step"].dropna().tolist() == [0.1]
    assert study.notes == (
        "the same run (configuration and seed) lies in several directories and is shown once; not shown: "
        + str(tmp_path / "less" / "s0"),
    )


def test_values_that_were_measured_only_in_the_other_directory_are_named(tmp_path):
    make_run(tmp_path / "one" / "s0", rows=[{"test/acc1": 0.4}], measured=[{"sharpness/one_step": 0.1}])
    make_run(tmp_path / "two" / "s0", rows=[{"test/acc1": 0.4}], measured=[{"curvature/trace": 3.0}])
    with pytest.warns(UserWarning, match="only in directories that are not shown: measured/curvature/trace") as caught:
        runs, rows = figures.load(tmp_path / "one", tmp_path / "two")
    assert caught[0].filename == __file__
    assert "measured/curvature/trace" not in runs
    assert "measured/curvature/trace" not in rows


def test_a_damaged_summary_is_said_once_and_the_rows_stay(tmp_path):
    bad = make_run(tmp_path / "s0", rows=[{"test/acc1": 0.4}])
    (bad / "summary.json").write_text("{broken")
    with pytest.warns(UserWarning, match=r"s0/summary\.json.*left out") as caught:
        runs, rows = figures.load(tmp_path)
    assert len(caught) == 1
    assert runs["status"].tolist() == ["damaged"]
    assert rows["test/acc1"].tolist() == [0.4]
    with pytest.raises(Damaged, match=r"s0/summary\.json"):
        figures.load(tmp_path, strict=True)


def test_a_damaged_copy_does_not_stand_for_a_whole_one(tmp_path):
    first = make_run(tmp_path / "one" / "s0", rows=[{"test/acc1": 0.4}], final___test___acc1=0.4)
    whole = make_run(tmp_path / "two" / "s0", rows=[{"test/acc1": 0.4}], final___test___acc1=0.4)
    (first / "metrics.jsonl").write_text("{broken\n{}\n")
    runs, rows = figures.load(tmp_path / "one", tmp_path / "two")
    assert runs["directory"].tolist() == [str(whole)]
    assert rows["test/acc1"].tolist() == [0.4]
