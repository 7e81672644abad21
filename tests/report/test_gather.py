"""What a page is made of: runs in every state, launches, measurements."""

import json

import pytest
from support.made_runs import make_run, make_sweep
from support.pages import data_of, written

from fsamlab.report.gather import gather
from fsamlab.report.page_tables import results, unfinished
from fsamlab.rundir.ownership import Ownership


def test_what_was_measured_twice_at_a_step_is_one_point_the_newest(tmp_path):
    directory = make_run(tmp_path / "made" / "s0", measured={"curvature/trace": 1.0, "curvature/lambda_max": 2.0})
    again = {"step": 50, "epoch": 5.0, "measured": "2027", "curvature/trace": 3.0}
    (directory / "measurements" / "best.jsonl").write_text(json.dumps(again) + "\n")
    found = gather([tmp_path / "made"]).curves.by_metric
    assert found["measured/curvature/trace"][0][2] == [3.0]
    assert found["measured/curvature/lambda_max"][0][2] == [2.0]


def test_a_command_can_be_given_again(tmp_path):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=1)
    (root / "launches").mkdir()
    entry = {"time": "2026-01-01", "command": ["launch.py", "-m", "seed=range(0,3)", "name=a b"], "jobs": []}
    (root / "launches" / "1.json").write_text(json.dumps(entry))
    gathered = gather([root])
    assert gathered.commands == [("2026-01-01", "launch.py -m 'seed=range(0,3)' 'name=a b'")]
    # the record of the configurations is missing: the page is made without
    assert gathered.notes == [f"configurations of a launch: {root}/launches/1.configs.jsonl does not exist"]


def test_what_did_not_finish_is_listed_with_its_reason(tmp_path):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=1)
    make_run(root / "failed", "sam", 1, epochs=2, status="failed", exception="Diverged: loss is nan")
    make_run(root / "lost", "sam", 2, epochs=3, status="running")  # nobody owns it
    jobs = [{"overrides": ["seed=3"], "directory": str(root / "queued"), "run_id": "q", "slurm_job_id": None}]
    jobs[0]["config_hash"] = "q"
    (root / "launches").mkdir()
    config = {"name": "made", "seed": 3, "optimizer": {"name": "fsam"}}
    (root / "launches" / "1.configs.jsonl").write_text(json.dumps(config) + "\n")
    entry = {"time": "2026-01-01", "command": ["launch.py", "-m", "seed=3"], "launcher": "local", "jobs": jobs}
    (root / "launches" / "1.json").write_text(json.dumps(entry))
    gathered = gather([root])
    assert gathered.counts() == {"queued": 1, "failed": 1, "lost": 1, "finished": 1}
    rows = {row["run"]: row for row in unfinished(gathered)}
    assert set(rows) == {"failed", "lost", "queued"}
    assert rows["failed"]["reason"] == "Diverged: loss is nan"
    assert rows["failed"]["progress"] == "step 20 of 50"
    assert rows["lost"]["status"] == "lost"
    assert rows["queued"] == {
        "run": "queued",
        "status": "queued",
        "progress": "–",
        "reason": "did not run",
        "log": "",
    }
    assert results(gathered).rows[0][1].text == "1"
    page, parsed = written(root)
    assert "launch.py -m seed=3" in parsed.text
    assert {r["status"] for r in data_of(page)["runs"]} == {"queued", "failed", "lost", "finished"}
    assert data_of(page)["keys"]["optimizer.name"].count("fsam") == 1  # known from the record


def test_a_run_of_two_sweeps_is_one_run(tmp_path):
    for sweep in ("a", "b"):
        for seed in (0, 1):
            make_run(tmp_path / sweep / f"s{seed}", seed=seed, name=sweep, run_id=f"sam-s{seed}-0123")
    make_run(tmp_path / "b" / "s2", seed=2, name="b", run_id="sam-s2-0123")
    gathered = gather([tmp_path / "a", tmp_path / "b"])
    assert len(gathered.frame) == 3
    hidden = ", ".join(str(tmp_path / "b" / f"s{seed}") for seed in (0, 1))
    said = "the same run (configuration and seed) lies in several directories and is shown once; not shown: "
    assert gathered.notes == [said + hidden]
    assert results(gathered).rows[0][1].text == "3"


def test_of_a_run_of_two_sweeps_the_one_with_more_measured_values_is_shown(tmp_path):
    measured = {"curvature/trace": 3.0, "diagnostics/num_samples": 64}
    make_run(tmp_path / "a" / "s0", run_id="sam-s0-0123")
    make_run(tmp_path / "b" / "s0", run_id="sam-s0-0123", measured=measured)
    gathered = gather([tmp_path / "a", tmp_path / "b"])
    row = gathered.frame.iloc[0]
    assert (row["measured/curvature/trace"], row["measured/diagnostics/num_samples"]) == (3.0, 64)
    assert gathered.curves.by_metric["measured/curvature/trace"][0][2] == [3.0]
    assert [note.split(": ")[-1] for note in gathered.notes] == [str(tmp_path / "a" / "s0")]


def test_values_that_were_measured_only_in_the_other_sweep_are_named(tmp_path):
    make_run(tmp_path / "a" / "s0", run_id="sam-s0-0123", measured={"sharpness/one_step": 0.1})
    make_run(tmp_path / "b" / "s0", run_id="sam-s0-0123", measured={"curvature/trace": 3.0})
    gathered = gather([tmp_path / "a", tmp_path / "b"])
    assert "measured/curvature/trace" not in gathered.frame
    assert "not shown: measured/curvature/trace; `fsamlab measure`" in gathered.notes[1]


@pytest.mark.parametrize("swap", [False, True])
def test_of_two_copies_the_whole_one_is_shown_and_the_other_named(tmp_path, swap):
    broken, whole = (make_run(tmp_path / sweep / "s0", run_id="sam-s0-0123") for sweep in ("ab" if not swap else "ba"))
    (broken / "metrics.jsonl").write_text("{broken\n{}\n")
    gathered = gather([tmp_path / "a", tmp_path / "b"])
    assert gathered.directories == [whole]
    assert gathered.frame["reason"].tolist() == [None]
    assert len(gathered.curves.by_metric["test/acc1"][0][2]) == 5
    assert any(str(broken) in note and "metrics.jsonl" in note for note in gathered.notes)


def test_a_finished_run_with_gaps_is_listed(tmp_path):
    root = make_sweep(tmp_path / "made", ("sam",), seeds=3)
    (root / "sam-s0" / "summary.json").unlink()
    rows = root / "sam-s1" / "metrics.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:3]))
    found = {row["run"]: (row["status"], row["reason"]) for row in unfinished(gather([root]))}
    assert found == {
        "sam-s0": ("finished", "summary.json is missing"),
        "sam-s1": ("finished", "metrics.jsonl ends at step 30 of 50"),
    }


def test_a_queued_run_of_a_moved_sweep_keeps_its_configuration(tmp_path):
    root = make_sweep(tmp_path / "moved", ("sam",), seeds=1)
    (root / "queued").mkdir()
    (root / "launches").mkdir()
    job = {"overrides": [], "directory": "/elsewhere/queued", "run_id": "q", "slurm_job_id": None, "config_hash": "q"}
    (root / "launches" / "1.json").write_text(json.dumps({"time": "2026-01-01", "jobs": [job]}))
    config = {"name": "made", "seed": 3, "optimizer": {"name": "fsam"}}
    (root / "launches" / "1.configs.jsonl").write_text(json.dumps(config) + "\n")
    assert sorted(gather([root]).frame["optimizer.name"]) == ["fsam", "sam"]


def test_runs_of_two_sweeps_that_have_not_finished_are_both_shown(tmp_path):
    for sweep in ("a", "b"):
        make_run(tmp_path / sweep / "s0", name=sweep, run_id="sam-s0-0123", status="failed", exception="x")
    assert len(gather([tmp_path / "a", tmp_path / "b"]).frame) == 2


def test_a_running_run_is_listed_and_in_no_mean(tmp_path):
    make_run(tmp_path / "made" / "s0")
    directory = make_run(tmp_path / "made" / "s1", seed=1, status="running", epochs=3)
    ownership = Ownership(directory)  # this process
    try:
        gathered = gather([tmp_path / "made"])
    finally:
        ownership.release()
    assert unfinished(gathered) == [
        {"run": "s1", "status": "running", "progress": "step 30 of 50", "reason": "", "log": ""}
    ]
    assert results(gathered).rows[0][1].text == "1"
    assert [run for run, _, _ in gathered.curves.by_metric["test/acc1"]] == [0, 1]
