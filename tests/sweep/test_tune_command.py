"""The command of a tuning study: what it asks for, what is refused, and what the other commands say of a study."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from support.runs import ROOT, TINY

from fsamlab.checks import ConfigError
from fsamlab.command.main import main as fsamlab
from fsamlab.rundir.reading import read_status, read_summary
from fsamlab.rundir.rows import read_rows
from fsamlab.sweep.resubmit import check, resubmit
from fsamlab.sweep.tuning.record import FILE, PRESENCE, Group, Study, Trial, read_study
from fsamlab.terminal.errors import SweepFailed

RHO = "optimizer.rho=log(0.01,0.5)"
ALONG = "+hydra.sweeper.along={seed: {1: {train.epochs: 3}}}"
TUNE = ("hydra/sweeper=tune", "hydra.sweeper.trials=2", "hydra.sweeper.parallel=2", "name=tuned")


def checked(tmp_path, *words):
    return check([*TINY, *TUNE, f"runs_dir={tmp_path}", *words])[1]


def test_each_method_searches_the_keys_that_it_has(tmp_path, caplog):
    words = ("optimizer=sgd,sam,fsam", "seed=0,1", RHO, "optimizer.lmbda=interval(0.5,0.99)", "hydra.sweeper.trials=1")
    caplog.set_level("INFO")
    plans = checked(tmp_path, *words)
    assert [plan.config["optimizer"]["name"] for plan in plans] == ["sgd"] * 2 + ["sam"] * 2 + ["fsam"] * 2
    assert [plan.config["seed"] for plan in plans] == [0, 1] * 3
    found = [(plan.config["optimizer"]["rho"], plan.config["optimizer"]["lmbda"]) for plan in plans[::2]]
    assert found[0] == (0, None)
    assert found[1] == (found[2][0], None)
    assert 0.01 <= found[2][0] <= 0.5
    assert 0.5 <= found[2][1] <= 0.99
    assert "optimizer=sgd has no optimizer.rho, optimizer.lmbda: it is trained once, as it is" in caplog.text
    assert "optimizer=sam has no optimizer.lmbda: the other keys are searched" in caplog.text
    assert not any(tmp_path.iterdir())  # a check writes nothing


def test_grids_of_a_sweep_file_may_have_keys_of_their_own(tmp_path):
    grids = ("+hydra.sweeper.grids.a={optimizer: sam, optimizer.rho: 'log(0.1,0.5)'}",)
    grids += ("+hydra.sweeper.grids.b={optimizer: fsam, optimizer.lmbda: 'choice(0.6,0.9)'}",)
    plans = checked(tmp_path, *grids, "hydra.sweeper.halving.min_epochs=1")
    assert [plan.until for plan in plans] == [1] * len(plans)
    assert 0.1 <= plans[0].config["optimizer"]["rho"] <= 0.5
    assert {p.config["optimizer"]["lmbda"] for p in plans if p.config["optimizer"]["name"] == "fsam"} <= {0.6, 0.9}


def test_words_along_hold_for_keys_that_are_not_searched(tmp_path):
    along = "+hydra.sweeper.along={optimizer: {fsam: {optimizer.lmbda: 0.6, optimizer.rho: 0.7}}}"
    plans = checked(tmp_path, "optimizer=sam,fsam", "optimizer.rho=log(0.1,0.5)", along)
    assert {plan.config["optimizer"]["name"] for plan in plans} == {"sam", "fsam"}
    for plan in plans:
        assert 0.1 <= plan.config["optimizer"]["rho"] <= 0.5
        assert "optimizer.rho=0.7" not in plan.overrides
        assert plan.config["optimizer"]["lmbda"] == (0.6 if plan.config["optimizer"]["name"] == "fsam" else None)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optimizer=sam"], "hydra/sweeper=tune: has no key to search; give one a range, such as"),
        (["optimizer=sgd", RHO], "optimizer=sgd has no perturbation"),
        (["optimizer=sam", "optimizer.rho=interval(-1,0.5)"], "optimizer.rho=-1.0: must be"),
        (["optimizer=sam", RHO, "seed=interval(0,5)"], "seed=interval(0,5): is not searched; give values"),
        (["optimizer=sam", RHO, "data.val_size=0"], "data.val_size=0: leaves no validation data"),
        (["optimizer=sam", RHO, "objective=test/acc1"], "nothing is chosen on test or training data"),
        (["optimizer=sam", RHO, "force=true"], "force=True: a study does not start over"),
        (["optimizer=sam", RHO, "optimizer.momentum=0.9,0.90"], "is searched twice: leave out one"),
        (["optimizer=sam", "optimizer.roh=log(0.1,1)"], "roh"),
        ([ALONG, "optimizer=sam", RHO, "seed=0,1"], "along.seed.1=seed: a study trains all"),
        (
            [ALONG.replace("seed", "optimizer.rho"), "optimizer=sam", RHO],
            "along.optimizer.rho.1=optimizer.rho: is searched",
        ),
        (
            [ALONG.replace("3", "'choice(3,4)'").replace("seed: {1", "optimizer: {sam"), "optimizer=sam", RHO],
            "choice(3,4): is a range to search",
        ),
    ],
)
def test_what_is_refused(tmp_path, words, reason):
    with pytest.raises(Exception) as error:  # noqa: PT011 - Hydra's errors and those of the project
        checked(tmp_path, *words)
    assert reason in str(error.value)


def test_a_grid_says_which_sweeper_searches(tmp_path):
    with pytest.raises(ConfigError, match="is a range to search: add hydra/sweeper=tune"):
        check([*TINY, f"runs_dir={tmp_path}", "optimizer=sam", RHO])


def test_a_study_has_a_directory_of_its_own(tmp_path):
    (tmp_path / "tuned" / "sgd-x-s0-1").mkdir(parents=True)
    (tmp_path / "tuned" / "sgd-x-s0-1" / "config.yaml").touch()
    with pytest.raises(ConfigError, match="has runs of another sweep; give the study a name of its own"):
        checked(tmp_path, "optimizer=sam", RHO)


@pytest.fixture
def made(tmp_path):
    """A study in the middle of its work, made by hand."""
    trials = [
        Trial(0, {"optimizer.rho": 0.1}, "finished", 1, [0.5, 0.7], [[0.5], [0.7]], ["sam-s0-0"]),
        Trial(1, {"optimizer.rho": 0.3}, "pruned", 0, [0.4], [[0.4]], ["sam-s0-1"]),
        Trial(2, {"optimizer.rho": 0.499}, "failed", 0, [], [], ["sam-s0-2"], 2, "failed: Diverged: at step 3"),
    ]
    sam = Group(
        ["optimizer=sam"], [], {"optimizer.rho": "log(0.01,0.5)"}, [1, 3], "h", 3, metric="best/val/acc1", trials=trials
    )
    sgd = Group(["optimizer=sgd"], [], {}, [3], "g", 1, trials=[Trial(0, {}, runs=["sgd-s0-3"])])
    Study({"trials": 3}, [sam, sgd]).write(tmp_path)
    for trial, status in zip([*sam.trials, *sgd.trials], ("finished", "paused", "failed", "preempted")):
        directory = tmp_path / trial.runs[0]
        directory.mkdir()
        method = directory.name.split("-")[0]
        (directory / "config.yaml").write_text(f"optimizer: {{name: {method}}}\nseed: 0\n")
        (directory / "status.json").write_text(json.dumps({"status": status, "run_id": directory.name}))
    summary = {"best/val/acc1": 0.7, "best/test/acc1": 0.66, "final/test/acc1": 0.61, "best/epoch": 2}
    (tmp_path / "sam-s0-0" / "summary.json").write_text(json.dumps(summary))
    launch = {"jobs": [], "command": ["launch.py", "-m", "optimizer.rho=tag(log,interval(0.01,0.5))"]}
    (tmp_path / "launches").mkdir()
    (tmp_path / "launches" / "1.json").write_text(json.dumps(launch))
    return tmp_path


def test_status_shows_the_study_and_how_to_continue_it(made, capsys):
    assert fsamlab(["status", str(made)]) == 1
    out = capsys.readouterr().out
    assert "4 runs: 1 finished, 1 paused, 1 preempted, 1 failed" in out
    assert "best by val/acc1 at the best epoch in %, mean over seeds; test data choose nothing" in out
    (line,) = [line for line in out.splitlines() if line.startswith("│ sam ")]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        *("sam", "3/3", "1", "0", "0", "1", "1", "70.00", "optimizer.rho=0.1"),
    ]
    assert "failed  sam, trial 2 (optimizer.rho=0.499): failed: Diverged: at step 3" in out
    assert "continue the study:  python launch.py -m 'optimizer.rho=tag(log,interval(0.01,0.5))'" in out
    assert "resubmit" not in out
    (made / FILE).write_text("{")
    fsamlab(["status", str(made)])
    assert "tune.json is not a JSON object" in capsys.readouterr().out


def test_a_study_is_not_resubmitted(made):
    with pytest.raises(ConfigError, match="is a tuning study: give its command again"):
        resubmit(made, [])


def test_the_page_has_the_chosen_settings_and_no_pruned_run_as_a_failure(made):
    from fsamlab.report import page_tables
    from fsamlab.report.gather import gather
    from fsamlab.report.page import render

    gathered = gather([made])
    page = render(gathered, "a study")
    assert "the setting of each method with the best val/acc1 at the best epoch in %" in page
    assert '<td class="numeric">3 of 3: 1 finished, 1 pruned, 1 failed</td>' in page
    for cell in ("70.00", "66.00", "61.00"):
        assert f'<td class="numeric">{cell}</td>' in page
    assert "pauses after 1 of 3 epochs; 4 of 9 epochs were trained" in page
    assert [row["run"] for row in page_tables.unfinished(gathered)] == ["sam-s0-2", "sgd-s0-3"]


def test_a_best_value_at_an_end_of_its_range_is_noted():
    from fsamlab.sweep.tuning.view import at_an_end

    def notes(value, text="log(0.01,0.5)"):
        return at_an_end(Group([], [], {"a": text}, [1], "", 1, trials=[Trial(0, {"a": value}, values=[1.0])]))

    assert notes(0.1) == []
    assert notes(0.49) == ["the best a=0.49 is at an end of log(0.01,0.5): a better one may lie beyond"]
    assert notes(0.011)
    assert notes(8, "int(interval(1,8))")
    assert notes("8", "range(1,8)") == []
    assert at_an_end(Group([], [], {"a": "log(0.01,0.5)"}, [1], "", 1)) == []


def test_two_commands_do_not_tune_one_study(tmp_path):
    from fsamlab.rundir.ownership import Ownership
    from fsamlab.sweep.tuning.presence import alone

    (tmp_path / PRESENCE).mkdir()
    other = Ownership(tmp_path / PRESENCE)
    try:
        with (
            pytest.raises(SweepFailed, match=r"another command tunes .* already: process \d+ on this machine"),
            alone(tmp_path),
        ):
            pass
    finally:
        other.release()
    with alone(tmp_path):
        assert (tmp_path / PRESENCE / "owner.json").exists()
    assert not (tmp_path / PRESENCE).exists()


HALVED = ("optimizer=sam,fsam", RHO, "train.epochs=8", "hydra.sweeper.trials=4", "hydra.sweeper.parallel=2")
HALVED += ("hydra.sweeper.halving.min_epochs=2", "hydra.sweeper.halving.factor=2", "hydra.launcher.num_jobs=2")
HALVED += ("train.checkpoint_every_steps=10",)


def numbers(entry):
    return {k: v for k, v in entry.items() if not k.startswith(("time", "cost/"))}


@pytest.mark.long
def test_a_study_that_is_killed_with_kill_9_ends_as_an_undisturbed_one(launch, tmp_path):
    words = ("-m", *TINY, *TUNE, *HALVED)
    done = launch(*words, "name=whole")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "launch.py", *words, "name=killed", f"runs_dir={tmp_path / 'runs'}"]
    place, whole, kills = tmp_path / "runs" / "killed", tmp_path / "runs" / "whole", 0
    for rounds in (1, 2, 4):  # kills while the runs of this launch train
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.time() + 240
        while not busy(place, rounds) and process.poll() is None:
            assert time.time() < end
            time.sleep(0.02)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kills == 3
    done = launch(*words, "name=killed")
    assert done.returncode == 0, done.stderr
    ours, theirs = read_study(place), read_study(whole)
    for group in (*ours.groups, *theirs.groups):
        group.words = []
    assert ours == theirs
    assert {trial.state for group in ours.groups for trial in group.trials} == {"finished", "pruned"}
    for directory in place.glob("*-s0-*"):
        other = whole / directory.name
        assert [numbers(row) for row in read_rows(directory)] == [numbers(row) for row in read_rows(other)]
        assert numbers(read_summary(directory)) == numbers(read_summary(other))
        assert read_status(directory)["status"] == read_status(other)["status"] in ("finished", "paused")
        states = [torch.load(d / "checkpoints" / "last.pt", weights_only=True)["model"] for d in (directory, other)]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def busy(place, launch):
    if not (place / "launches" / f"{launch}.json").exists():
        return False
    return any(read_status(d)["status"] == "running" and read_status(d).get("step") for d in place.glob("*-s0-*"))


@pytest.mark.long
def test_ctrl_c_leaves_a_study_that_the_same_command_continues(launch, tmp_path):
    words = ("-m", *TINY, *TUNE, "optimizer=sam", RHO, "train.epochs=60", "hydra.launcher.num_jobs=2")
    command = [sys.executable, "launch.py", *words, f"runs_dir={tmp_path / 'runs'}"]
    place = tmp_path / "runs" / "tuned"
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    end = time.time() + 240
    while not busy(place, 1):
        assert process.poll() is None
        assert time.time() < end
        time.sleep(0.02)
    second = launch(*words)
    assert second.returncode == 1
    assert "another command tunes" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert {read_status(d)["status"] for d in place.glob("*-s0-*")} == {"preempted"}
    done = launch(*words)
    assert done.returncode == 0, done.stderr
    assert "2 of them are on record" in done.stderr
    assert {read_status(d)["status"] for d in place.glob("*-s0-*")} == {"finished"}
