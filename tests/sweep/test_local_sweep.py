"""Multiruns through launch.py: failures, kills, Ctrl-C, resuming; results read from run directories."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support.runs import ROOT, TINY

from fsamlab.command.main import main as fsamlab
from fsamlab.rundir.reading import read_status

pytestmark = pytest.mark.long
SWEEP = ("-m", *TINY, "name=sweep", "optimizer=sgd,fsam")


def runs(tmp_path):
    return sorted((tmp_path / "runs" / "sweep").glob("*-s*"))


def background(tmp_path, *arguments):
    command = [sys.executable, "launch.py", *SWEEP, *arguments, f"runs_dir={tmp_path / 'runs'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)


def running(tmp_path):
    return [(d, s) for d in runs(tmp_path) if (s := read_status(d))["status"] == "running" and s.get("step", 0) > 2]


def wait_until_running(tmp_path, process, number):
    end = time.time() + 120
    while len(running(tmp_path)) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < end
        time.sleep(0.02)
    return running(tmp_path)


LONG = ("train.epochs=400", "train.log_every_steps=1", "train.checkpoint_every_steps=20")
ENDLESS = ("train.epochs=100000", "train.log_every_steps=1")  # stopped by the test, however slow the machine is


def test_one_failing_job_of_a_sweep(launch, tmp_path):
    arguments = (*SWEEP, "optimizer.lr=0.05,1e6")
    done = launch(*arguments)
    assert done.returncode == 1
    assert "2 of 4 runs did not finish" in done.stderr
    assert done.stdout.count("failed") == 2
    assert "diverged at step" in done.stdout
    assert "2 of 4 runs finished" in done.stdout
    record = json.loads((tmp_path / "runs/sweep/launches/1.json").read_text())
    assert len(record["jobs"]) == 4
    assert {job["directory"] for job in record["jobs"]} == {d.name for d in runs(tmp_path)}
    finished = {
        d.name: (d / "metrics.jsonl").read_text() for d in runs(tmp_path) if read_status(d)["status"] == "finished"
    }
    again = launch(*arguments)
    assert again.returncode == 1
    assert "2 of 4 runs are finished already and are not run again (force=true would)" in again.stderr
    for name, rows in finished.items():
        assert (tmp_path / "runs/sweep" / name / "metrics.jsonl").read_text() == rows


def test_an_unforeseen_exception_is_in_the_jobs_log(launch, tmp_path):
    code = tmp_path / "broken_model.py"
    code.write_text("def build(num_classes, in_channels):\n    raise KeyError('nothing here')\n")
    broken = ("model.import_path=broken_model:build", "model.width=null", "model.name=broken")
    done = launch(*SWEEP[:-1], "optimizer=sgd", *broken, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    (directory,) = runs(tmp_path)
    assert "KeyError: 'nothing here'" in (directory / "run.log").read_text()
    assert "Traceback" in (directory / "run.log").read_text()
    assert read_status(directory)["exception"] == "KeyError: 'nothing here'"
    assert "Traceback" not in done.stderr


def test_a_killed_job_takes_nothing_with_it(launch, tmp_path):
    process = background(tmp_path, *LONG, "seed=0", "hydra.launcher.num_jobs=2")
    victim, status = wait_until_running(tmp_path, process, 1)[0]
    os.kill(status["pid"], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "killed by SIGKILL" in output
    assert f"lost  {victim.name}" in output
    assert "1 of 2 runs finished" in output
    done = launch(*SWEEP, *LONG, "seed=0")
    assert done.returncode == 0, done.stderr
    assert read_status(victim)["attempts"] == 2
    steps = [json.loads(line)["step"] for line in (victim / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_checkpoints_the_running_jobs(launch, tmp_path, to_group):
    process = background(tmp_path, *ENDLESS, "seed=0,1", "hydra.launcher.num_jobs=2")
    wait_until_running(tmp_path, process, 2)
    if to_group:  # what a terminal does
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    states = sorted(read_status(d)["status"] for d in runs(tmp_path))
    assert states == ["preempted", "preempted"], output  # and the other two never started
    assert "the same command continues them" in output


def test_the_same_run_twice_in_a_sweep_runs_once(launch, tmp_path):
    done = launch(*SWEEP[:-1], "optimizer=sgd", "optimizer.lr=0.05,0.050")
    assert done.returncode == 0, done.stderr
    assert "is the same run as" in done.stderr
    assert len(runs(tmp_path)) == 1


def test_collect_writes_one_row_per_run(launch, tmp_path, capsys):
    assert launch(*SWEEP, "seed=0,1").returncode == 0
    assert fsamlab(["collect", str(tmp_path / "runs" / "sweep")]) == 0
    import pandas as pd

    frame = pd.read_csv(tmp_path / "runs" / "sweep" / "results.csv")
    assert len(frame) == 4
    assert set(frame["status"]) == {"finished"}
    assert {"optimizer.name", "seed", "final/test/acc1", "best/test/acc1", "cost/step_ms"} <= set(frame.columns)
    printed = capsys.readouterr().out
    assert "fsam" in printed
    assert "vs SGD" in printed
    assert fsamlab(["collect", str(tmp_path / "nothing")]) == 1


def test_a_sweeper_of_hydra_trains_through_the_same_launcher(launch, tmp_path):
    done = launch("-m", *TINY, "name=sweep", "hydra/sweeper=basic", "optimizer=sgd,fsam", "train.max_steps=3")
    assert done.returncode == 0, done.stderr
    assert [read_status(d)["status"] for d in runs(tmp_path)] == ["finished", "finished"]
    failing = launch("-m", *TINY, "name=sweep", "hydra/sweeper=basic", "optimizer=sgd", "optimizer.lr=1e6")
    assert failing.returncode == 1
