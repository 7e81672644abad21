"""How the runs of a study are trained: started once, waited for where another launch trains them, and judged."""

import json
from types import SimpleNamespace

import pytest
from support.fake_slurm import fake_tools, lines  # noqa: F401
from support.runs import compose_tiny

from fsamlab.config import to_plain
from fsamlab.config.identity import run_id
from fsamlab.rundir.ownership import Ownership
from fsamlab.storage.reading import Damaged
from fsamlab.sweep.launcher import JobLauncher
from fsamlab.sweep.launches import read_launches
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.tuning import launching
from fsamlab.sweep.tuning.launching import Detached, Failure, Runner, until_of
from fsamlab.train.divergence import Diverged


class Launcher(JobLauncher):
    """Writes what a run would have written; `ends` says how the run with a number of a directory ends."""

    def __init__(self, ends=None, detached=False):
        self.ends, self.jobs, self.leaves = ends or {}, [], detached

    def run(self, jobs, on_submitted):
        self.jobs.append([(job.directory.name, job.until) for job in jobs])
        self.detached = self.leaves
        failures = []
        for job in jobs:
            status, reason = self.ends.get(job.directory.name, ("paused" if job.until else "finished", None))
            write(job.directory, status, job.until or 4, reason)
            failures.append(reason)
        return [] if self.leaves else failures


def write(directory, status, epoch, reason=None):
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text("optimizer: {name: sam}\n")
    entry = {"status": status, "exception": reason, "updated": "2026-01-01T00:00:00+00:00"}
    (directory / "status.json").write_text(json.dumps(entry))
    if reason is None:
        (directory / "metrics.jsonl").write_text(json.dumps({"step": epoch, "epoch": epoch}) + "\n")


@pytest.fixture
def plans(tmp_path):
    config = compose_tiny()
    return [
        JobPlan([f"seed={n}"], tmp_path / f"run{n}", run_id(config), "h", {**to_plain(config), "seed": n}, until=2)
        for n in range(3)
    ]


def trained(tmp_path, plans, launcher):
    return Runner(launcher, tmp_path, []).train(plans)


def test_runs_are_started_until_their_epoch_and_those_that_are_there_are_not(tmp_path, plans):
    write(plans[1].directory, "preempted", 2)  # killed after the row of the pause, and before the pause
    launcher = Launcher()
    assert trained(tmp_path, plans, launcher) == {}
    assert launcher.jobs == [[("run0", 2), ("run2", 2)]]
    assert [job.directory.name for launch in read_launches(tmp_path) for job in launch.jobs] == ["run0", "run2"]
    goes_on = [until_of(plan, 4, 4) for plan in plans[:2]]
    assert trained(tmp_path, goes_on, launcher) == {}
    assert launcher.jobs[1] == [("run0", None), ("run1", None)]
    assert trained(tmp_path, goes_on, launcher) == {}
    assert len(launcher.jobs) == 2


def test_failures_are_told_with_their_reasons(tmp_path, plans):
    ends = {"run0": ("failed", "Diverged: diverged at step 3"), "run2": ("failed", "OSError: no space")}
    launcher = Launcher(ends)
    found = trained(tmp_path, plans, launcher)
    assert found == {
        plans[0].directory: Failure("failed", "Diverged: diverged at step 3", diverged=True),
        plans[2].directory: Failure("failed", "OSError: no space"),
    }
    assert len(launcher.jobs) == 1  # a run that fails is not started again and again


def test_a_run_that_another_launch_trains_is_waited_for(tmp_path, plans, monkeypatch):
    write(plans[0].directory, "running", 1)
    owner = Ownership(plans[0].directory)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            write(plans[0].directory, "paused", 2)
            owner.release()

    monkeypatch.setattr(launching, "time", SimpleNamespace(sleep=sleep))
    launcher = Launcher()
    assert trained(tmp_path, plans, launcher) == {}
    assert launcher.jobs == [[("run1", 2), ("run2", 2)]]
    assert len(looks) == 3


def test_a_run_whose_other_launch_has_failed_is_started_here(tmp_path, plans, monkeypatch):
    write(plans[0].directory, "running", 1)
    owner = Ownership(plans[0].directory)

    def sleep(seconds):
        write(plans[0].directory, "failed", 1, "killed")
        owner.release()

    monkeypatch.setattr(launching, "time", SimpleNamespace(sleep=sleep))
    launcher = Launcher()
    assert trained(tmp_path, plans, launcher) == {}
    assert launcher.jobs == [[("run1", 2), ("run2", 2)], [("run0", 2)]]


def test_a_launcher_that_does_not_wait_leaves_the_study(tmp_path, plans):
    launcher = Launcher(detached=True)
    with pytest.raises(Detached):
        trained(tmp_path, plans, launcher)
    assert trained(tmp_path, plans, launcher) == {}
    assert len(launcher.jobs) == 1


def test_a_damaged_run_is_told_and_is_not_started(tmp_path, plans):
    write(plans[0].directory, "paused", 1)
    (plans[0].directory / "status.json").write_text("[]")
    launcher = Launcher()
    with pytest.raises(Damaged, match=r"status.json is not a JSON object"):
        trained(tmp_path, plans, launcher)
    assert launcher.jobs == []


def test_a_run_that_diverged_on_slurm_has_diverged(tmp_path, plans, fake):
    fake(squeue=lines("7|FAILED|NonZeroExitCode|n1|7"))
    launch = {"jobs": [{"overrides": [], "directory": "run0", "run_id": "r", "slurm_job_id": "7"}], "launcher": "slurm"}
    (tmp_path / "launches").mkdir()
    (tmp_path / "launches" / "1.json").write_text(json.dumps(launch))
    ends = {"run0": ("failed", "Diverged: diverged at step 3")}
    (failure,) = trained(tmp_path, plans, Launcher(ends)).values()
    assert failure.diverged
    assert f"{Diverged.__name__}:" == launching.DIVERGED
