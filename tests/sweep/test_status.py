import json
import os
import re
import time

import pytest
from support.fake_slurm import DISABLED, DOWN, INVALID, fake_tools, lines  # noqa: F401

from fsamlab.command.main import main
from fsamlab.storage.writing import write_json
from fsamlab.sweep.runs import sweep_runs
from fsamlab.sweep.status import sweep_state


@pytest.fixture(autouse=True)
def no_slurm(fake):
    """Every test begins without SLURM's tools."""


def put(directory, status=None, log=None, config=True, **fields):
    """Make a run directory by hand."""
    directory.mkdir(parents=True)
    if config:
        (directory / "config.yaml").write_text("seed: 0\n")
    if status is not None:
        (directory / "status.json").write_text(json.dumps({"status": status, **fields}))
    if log is not None:
        (directory / "run.log").write_text(log)
    return directory


def record(sweep, number, jobs, launcher="slurm"):
    """Write a launch record; `jobs` maps names of run directories to SLURM ids."""
    (sweep / "launches").mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "overrides": [f"seed={i}"],
            "directory": str(sweep / name),
            "run_id": name,
            "config_hash": "0",
            "slurm_job_id": job,
        }
        for i, (name, job) in enumerate(jobs.items())
    ]
    write_json(sweep / "launches" / f"{number}.json", {"launcher": launcher, "jobs": entries})


def statuses(sweep):
    return {r.run.directory.name: r.status for r in sweep_state([sweep]).runs}


def test_a_later_launch_replaces_an_entry(tmp_path):
    record(tmp_path, 1, {"a": "7_0", "b": "7_1", "c": "7_2"})
    record(tmp_path, 10, {"b": "9", "c": None})
    (tmp_path / "launches" / "11.json").touch()  # being written
    put(tmp_path / "plain", "finished")
    runs = {r.run_id: (r.slurm_job_id, r.launch, r.overrides) for r in sweep_runs(tmp_path)}
    assert runs == {
        "a": ("7_0", 1, ["seed=0"]),
        "b": ("9", 10, ["seed=0"]),
        "c": ("7_2", 10, ["seed=1"]),  # not submitted again
        "plain": (None, None, []),
    }
    assert list(runs) == ["a", "b", "c", "plain"]


def test_an_older_record_and_a_single_run_directory(tmp_path):
    put(tmp_path / "a", "finished")
    jobs = [{"overrides": ["x=1"], "directory": str(tmp_path / "a"), "run_id": "r", "config_hash": "0"}]
    (tmp_path / "launches").mkdir()
    write_json(tmp_path / "launches" / "1.json", {"jobs": jobs})
    (run,) = sweep_runs(tmp_path / "a")
    assert (run.run_id, run.slurm_job_id, run.overrides) == ("r", None, ["x=1"])


def test_a_moved_sweep_is_found(tmp_path):
    record(tmp_path / "old", 1, {"a": None})
    put(tmp_path / "old" / "a", "finished")
    (tmp_path / "old").rename(tmp_path / "new")
    assert statuses(tmp_path / "new") == {"a": "finished"}


@pytest.mark.parametrize(
    ("disk", "slurm", "expected"),
    [
        ("finished", "FAILED", "finished"),
        ("failed", "COMPLETED", "failed"),
        ("failed", "RUNNING", "failed"),
        ("failed", "PENDING", "queued"),
        ("preempted", "REQUEUED", "queued"),
        ("preempted", "RUNNING", "running"),
        ("preempted", "COMPLETED", "preempted"),
        ("preempted", "CANCELLED", "cancelled"),
        ("running", "PENDING", "queued"),
        ("running", "RUNNING", "running"),
        ("running", "COMPLETING", "running"),
        ("running", "CANCELLED", "cancelled"),
        ("running", "TIMEOUT", "failed"),
        ("running", "OUT_OF_MEMORY", "failed"),
        ("running", "NODE_FAIL", "lost"),
        ("running", None, "lost"),
        (None, None, "lost"),
        (None, "PENDING", "queued"),
        (None, "RUNNING", "running"),
        (None, "CANCELLED", "cancelled"),
        (None, "FAILED", "failed"),
    ],
)
def test_the_run_s_word_and_the_scheduler_s(tmp_path, fake, disk, slurm, expected):
    fake(squeue=INVALID if slurm is None else lines(f"7_0|{slurm}|None|n1|8"), sacct=DISABLED)
    record(tmp_path, 1, {"a": "7_0"})
    put(tmp_path / "a", disk, slurm_job_id="8", config=disk is not None)
    assert statuses(tmp_path) == {"a": expected}


def test_an_earlier_job_s_failure_does_not_hide_that_the_new_job_was_cancelled(tmp_path, fake):
    fake(squeue=lines("9|CANCELLED|None||9"))
    record(tmp_path, 1, {"a": "9"})
    put(tmp_path / "a", "failed", slurm_job_id="8")
    assert statuses(tmp_path) == {"a": "cancelled"}


@pytest.mark.parametrize(
    ("writer", "slurm", "expected"),
    [
        ("8", "COMPLETED", ("paused", False)),
        ("8", "COMPLETING", ("paused", True)),  # no second job may start meanwhile
        ("7", "PENDING", ("queued", True)),  # a later job continues the run
        ("7", "CANCELLED", ("cancelled", False)),
        ("7", "COMPLETED", ("lost", False)),
    ],
)
def test_a_paused_run(tmp_path, fake, capsys, writer, slurm, expected):
    fake(squeue=lines(f"8|{slurm}|None|n1|8", "7|COMPLETED|None|n1|7"), sacct=DISABLED)
    record(tmp_path, 1, {"a": "8"})
    entry = json.loads((tmp_path / "launches" / "1.json").read_text())
    write_json(tmp_path / "launches" / "1.json", {**entry, "time": "2026-01-01T12:00:00+00:00"})
    updated = f"2026-01-01T1{'3' if writer == '8' else '1'}:00:00+00:00"
    put(tmp_path / "a", "paused", step=4, last_step=9, slurm_job_id=writer, updated=updated)
    (state,) = sweep_state([tmp_path]).runs
    assert (state.status, state.busy) == expected
    assert state.status != "paused" or state.reason is None
    main(["status", str(tmp_path)])
    assert ("fsamlab resubmit" in capsys.readouterr().out) == (expected[0] in ("cancelled", "lost"))


def test_a_run_that_was_paused_on_this_machine_stays_paused(tmp_path):
    record(tmp_path, 1, {"a": None}, launcher="local")
    put(tmp_path / "a", "paused", step=4, last_step=9, updated="2026-01-01T13:00:00+00:00")
    assert statuses(tmp_path) == {"a": "paused"}


@pytest.mark.parametrize("disk", ["running", "preempted", "failed"])
def test_unknown_is_not_gone(tmp_path, fake, capsys, disk):
    fake(squeue=DOWN, sacct=DISABLED)
    record(tmp_path, 1, {"a": "7", "b": "8"})
    put(tmp_path / "a", disk, slurm_job_id="7")
    assert statuses(tmp_path) == {"a": disk, "b": "queued"}
    main(["status", str(tmp_path)])
    assert "the scheduler could not be asked" in capsys.readouterr().out


def test_a_local_run_is_judged_by_its_heartbeat(tmp_path):
    record(tmp_path, 1, {"a": None, "b": None}, launcher="local")
    put(tmp_path / "a", "running")
    (state, never) = sweep_state([tmp_path]).runs
    assert (state.status, state.active) == ("lost", False)
    assert (never.status, never.reason) == ("queued", "did not run")


def test_a_slurm_run_taken_up_locally_is_running(tmp_path, fake):
    from fsamlab.rundir.ownership import Ownership

    fake(squeue=INVALID, sacct=lines("7|TIMEOUT|n1|7"))
    record(tmp_path, 1, {"a": "7"})
    owner = Ownership(put(tmp_path / "a", "running", slurm_job_id=None))
    try:
        assert statuses(tmp_path) == {"a": "running"}
    finally:
        owner.release()


def test_reasons_come_from_the_nearest_source(tmp_path, fake):
    fake(squeue=lines(*(f"7_{i}|TIMEOUT|TimeLimit|n1|{i}" for i in range(4))))
    record(tmp_path, 1, {name: f"7_{i}" for i, name in enumerate("abcd")})
    put(tmp_path / "a", "failed", log="x\n", exception="ValueError: no")
    put(tmp_path / "b", "running", log="first\nlast words\n\n", slurm_job_id="1")
    for task in (2, 0):
        err = tmp_path / ".submitit" / f"7_{task}" / f"7_{task}_0_log.err"
        err.parent.mkdir(parents=True)
        err.write_text("slurmstepd: time limit\n")
    states = sweep_state([tmp_path]).runs
    assert [r.reason for r in states] == [
        "SLURM TIMEOUT (TimeLimit): ValueError: no",
        "SLURM TIMEOUT (TimeLimit): last words",
        "SLURM TIMEOUT (TimeLimit): slurmstepd: time limit",
        "SLURM TIMEOUT (TimeLimit)",
    ]
    assert [r.log and r.log.name for r in states] == ["run.log", "run.log", "7_2_0_log.err", None]


def test_the_page(tmp_path, fake, capsys):
    fake(squeue=lines("7_0|COMPLETED|None|n1|1", "7_1|RUNNING|None|n2|2", "7_2|FAILED|NonZeroExitCode|n1|3"))
    record(tmp_path, 1, {"a": "7_0", "b": "7_1", "c": "7_2"})
    put(tmp_path / "a", "finished", step=10, last_step=10, attempts=2, latest={"train/loss": 0.5, "test/acc1": 0.75})
    put(tmp_path / "b", "running", step=3, last_step=12, slurm_job_id="2", warnings=["code changed since launch"])
    put(tmp_path / "c", "failed", log="[bold]Boom\n", exception="E: [red]")
    assert main(["status", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("3 runs: 1 finished, 1 running, 1 failed\n")
    for words in (
        "75.00",
        "10/10",
        "3/12",
        "25",
        "7_1 RUNNING n2",
        "E: [red]",
        "run.log",
        "scancel 7_1",
        "1 of 3 runs",
    ):
        assert words in out, words
    assert f"fsamlab resubmit {tmp_path}" in out
    assert "\x1b" not in out
    assert main(["status", str(tmp_path), "--failed"]) == 1
    out = capsys.readouterr().out
    assert "E: [red]" in out
    assert "10/10" not in out


def test_the_page_shows_the_headline_of_each_task(tmp_path, fake, capsys):
    mse = {"headline": "mse", "title": "mean squared error", "higher_is_better": False, "percent": False}
    put(tmp_path / "a", "finished", latest={"val/mse": 0.5, "test/mse": 0.25}, task=mse)
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"val mse ┃ test mse", out)
    assert re.search(r"│ +0.5 │ +0.25 │", out)
    put(tmp_path / "b", "finished", latest={"val/acc1": 0.5, "test/acc1": 0.75})
    put(tmp_path / "c", "queued")
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r" val +┃ +test ┃", out)
    assert re.search(r"│ +mse 0.5 │ +mse 0.25 │", out)
    assert re.search(r"│ +acc1 50.00 % │ +acc1 75.00 % │", out)


def test_one_run_of_an_array_does_not_offer_to_cancel_the_others(tmp_path, fake, capsys):
    fake(squeue=lines("7_0|RUNNING|None|n1|8", "7_1|RUNNING|None|n2|7"))
    record(tmp_path, 1, {"a": "7_0", "b": "7_1"})
    for name in "ab":
        put(tmp_path / name, "running", slurm_job_id="8")
    assert main(["status", str(tmp_path / "a")]) == 0
    assert "scancel 7_0\n" in capsys.readouterr().out
    assert main(["status", str(tmp_path)]) == 0
    assert "scancel 7\n" in capsys.readouterr().out


def test_json(tmp_path, capsys):
    record(tmp_path, 1, {"a": None, "b": None}, launcher="local")
    put(tmp_path / "a", "finished", latest={"train/loss": float("nan")})
    put(tmp_path / "b", "failed", exception="E")
    assert main(["status", str(tmp_path), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [(r["run"], r["status"], r["reason"]) for r in rows] == [("a", "finished", None), ("b", "failed", "E")]
    assert rows[0]["latest"] == {"train/loss": None}
    assert rows[0].keys() == rows[1].keys()
    main(["status", str(tmp_path), "--json", "--failed"])
    assert [r["run"] for r in json.loads(capsys.readouterr().out)] == ["b"]


def test_watch_ends_when_nothing_is_active(tmp_path, fake, capsys):
    count = f"echo >> {tmp_path}/n; read -r a < /dev/null; set -- $(while read -r l; do echo x; done < {tmp_path}/n)\n"
    fake(squeue=count + '[ $# -lt 3 ] && echo "7|RUNNING|None|n1|7" || echo "7|TIMEOUT|TimeLimit|n1|7"')
    sweep = tmp_path / "s"
    record(sweep, 1, {"a": "7"})
    put(sweep / "a", "running", slurm_job_id="7")
    assert main(["status", str(sweep), "--watch", "0.05"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  1 run: 1 running", out[0])  # a pipe has the changes, each in a line
    assert re.fullmatch(r"\d\d:\d\d:\d\d  1 run: 1 failed", out[1])
    assert out[2] == "1 run: 1 failed"


def test_a_broken_status_file_is_one_damaged_run(tmp_path):
    put(tmp_path / "a", "finished")
    (put(tmp_path / "b") / "status.json").write_text("{")
    assert statuses(tmp_path) == {"a": "finished", "b": "damaged"}


def test_a_thousand_runs_and_a_finished_sweep_asks_nobody(tmp_path, fake, capsys):
    calls = fake(squeue="exit 1")
    sweep = tmp_path / "s"
    record(sweep, 1, {f"r{i}": f"7_{i}" for i in range(1000)})
    for i in range(1000):
        os.makedirs(sweep / f"r{i}")
        (sweep / f"r{i}" / "status.json").write_text('{"status": "finished", "step": 5, "last_step": 5}')
    assert main(["status", str(sweep)]) == 0
    assert capsys.readouterr().out.startswith("1000 runs: 1000 finished\n")
    assert calls() == []


def jobs_of(sweep, number, jobs, time, cluster=None, **fields):
    """A launch record with time and cluster, as they are written now."""
    record(sweep, number, jobs)
    path = sweep / "launches" / f"{number}.json"
    entry = json.loads(path.read_text())
    write_json(path, {**entry, "time": time, "cluster": cluster, "sweep_dir": str(sweep), **fields})


LIVING = {"token": "x", "attempt": 1, "host": "another machine", "pid": 7, "pid_start": "1"}


def test_a_second_job_that_was_refused_the_directory_says_nothing_of_a_healthy_run(tmp_path, fake):
    fake(squeue=lines("8|RUNNING|None|n1|8", "9|FAILED|NonZeroExitCode|n2|9"))
    jobs_of(tmp_path, 1, {"a": "8"}, "2026-01-01T00:00:00+00:00")
    jobs_of(tmp_path, 2, {"a": "9"}, "2026-01-01T00:00:00+00:00")
    put(tmp_path / "a", "running", slurm_job_id="8")
    (state,) = sweep_state([tmp_path]).runs
    assert (state.status, state.active, state.job_id) == ("running", True, "8")


def test_a_healthy_run_in_the_earlier_launch_is_not_given_to_slurm_again(tmp_path, fake):
    fake(squeue=lines("8|PENDING|Priority||8", "9|CANCELLED|None||9"))
    jobs_of(tmp_path, 1, {"a": "8"}, "2026-01-01T00:00:00+00:00")
    jobs_of(tmp_path, 2, {"a": "9"}, "2026-01-01T00:00:01+00:00")
    (state,) = sweep_state([tmp_path]).runs
    assert (state.status, state.busy, state.job_id) == ("queued", True, "8")


def test_a_killed_writer_is_not_hidden_by_a_job_that_was_refused(tmp_path, fake):
    fake(squeue=lines("8|OUT_OF_MEMORY|None|n1|8", "9|COMPLETED|None|n2|9"))
    jobs_of(tmp_path, 1, {"a": "8"}, "2026-01-01T00:00:00+00:00")
    jobs_of(tmp_path, 2, {"a": "9"}, "2026-01-01T00:00:01+00:00")
    put(tmp_path / "a", "running", slurm_job_id="8")
    (state,) = sweep_state([tmp_path]).runs
    assert (state.status, state.reason, state.busy) == ("failed", "SLURM OUT_OF_MEMORY", False)


@pytest.mark.parametrize(("age", "expected"), [(1, "running"), (100, "lost")])
def test_a_fresh_heartbeat_is_never_lost(tmp_path, fake, age, expected):
    """The scheduler here knows of no such job: it runs on another cluster with the same file system."""
    fake(squeue=INVALID, sacct=DISABLED)
    record(tmp_path, 1, {"a": "8"})
    put(tmp_path / "a", "running", slurm_job_id="8")
    write_json(tmp_path / "a" / "owner.json", LIVING)
    now = time.time()
    os.utime(tmp_path / "a" / "owner.json", (now - age, now - age))
    (state,) = sweep_state([tmp_path]).runs
    assert (state.status, state.busy) == (expected, expected == "running")


def test_a_job_is_asked_about_on_its_own_cluster(tmp_path, fake, capsys):
    """Numbers mean something on one cluster only: job 8 of this one has failed, job 8 of the other one runs."""
    body = 'case "$*" in *"-M far"*) echo "8|RUNNING|None|f1|8";; *) echo "8|FAILED|None|n1|8";; esac'
    calls = fake(squeue=body, scontrol="echo 'ClusterName             = near'")
    time_ = "2026-01-01T00:00:00+00:00"
    jobs_of(tmp_path / "s", 1, {"a": "8"}, time_, cluster="far")
    jobs_of(tmp_path / "s", 2, {"b": "8"}, time_, cluster="near")
    assert statuses(tmp_path / "s") == {"a": "running", "b": "failed"}
    squeue = [call for call in calls() if call.startswith("squeue")]
    assert [("-M far" in call, "-M near" in call) for call in squeue] == [(True, False), (False, False)]
    assert main(["status", str(tmp_path / "s")]) == 1
    assert "scancel -M far 8" in capsys.readouterr().out


def test_a_run_waits_for_its_turn_in_a_living_local_sweep(tmp_path, capsys):
    """The launcher is at work on another run: nobody has forgotten this one, and no resubmission is asked for."""
    from fsamlab.rundir.ownership import Ownership

    sweep = tmp_path / "s"
    jobs_of(sweep, 1, {"a": None, "b": None}, "2026-01-01T00:00:00+00:00", launcher="local")
    put(sweep / "a", "finished")
    (sweep / "launches" / "1.launcher").mkdir()
    owner = Ownership(sweep / "launches" / "1.launcher")
    try:
        waiting = sweep_state([sweep]).runs[1]
        assert (waiting.status, waiting.busy) == ("queued", True)
        assert waiting.reason == "waits for its turn: the launcher is at work"
        assert main(["status", str(sweep)]) == 0
        out = capsys.readouterr().out
        assert "no job" not in out
        assert "resubmit" not in out
    finally:
        owner.release()
    assert not sweep_state([sweep]).runs[1].busy
    main(["status", str(sweep)])  # the launcher is gone: nothing will start the run
    out = capsys.readouterr().out
    assert out.startswith("2 runs: 1 finished, 1 not begun\n")
    assert "queued" not in out
    assert f"fsamlab resubmit {sweep}" in out


def test_a_record_that_is_damaged_is_said_and_the_runs_are_shown(tmp_path, capsys):
    put(tmp_path / "a", "finished")
    record(tmp_path, 1, {"a": None}, launcher="local")
    (tmp_path / "launches" / "2.json").touch()
    assert main(["status", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 run: 1 finished" in out
    assert f"{tmp_path}/launches/2.json is not a JSON object" in out.replace("\n", "")
