"""A tuning study on a real SLURM, killed, continued and preempted: the study and the bits of a local one."""

import os
import signal

import pytest
from support.cluster_runs import arguments, assert_as_undisturbed, fsamlab, preempt, runs, under_way

from fsamlab.rundir.reading import read_status
from fsamlab.sweep.tuning.record import read_study

pytestmark = pytest.mark.slurm
STUDY = (
    *("hydra/sweeper=tune", "optimizer=sgd,sam", "optimizer.rho=log(0.01,0.5)", "train.epochs=160"),
    *("hydra.sweeper.trials=4", "hydra.sweeper.parallel=2", "train.checkpoint_every_steps=50"),
    *("hydra.sweeper.halving.min_epochs=40", "hydra.sweeper.halving.factor=2"),
)
LOW = "hydra.launcher.partition=low"


def test_a_study_that_is_killed_on_a_cluster_ends_as_a_local_one(cluster, tmp_path):
    launcher = cluster.start(*arguments(tmp_path, *STUDY, LOW))
    cluster.wait_for("running jobs", lambda: under_way(tmp_path, 2))
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    launcher = cluster.start(*arguments(tmp_path, *STUDY, LOW, "hydra.launcher.runs_per_job=2"))
    directory, status = cluster.wait_for("a running job", lambda: under_way(tmp_path))[0]
    preempt(cluster, directory, status)
    output, _ = launcher.communicate(timeout=480)
    assert launcher.returncode == 0, output
    assert "3 of them are on record" in output
    assert read_status(directory)["resumed_at"] > 0
    study = read_study(tmp_path / "runs" / "sweep")
    sgd, sam = study.groups
    assert [len(trial.values) for trial in sam.ranked(0)] == [3, 2, 1, 1]
    assert (sam.epochs, sam.count("finished"), sgd.count("finished")) == ([40, 80, 160], 1, 1)
    assert {read_status(d)["status"] for d in runs(tmp_path)} == {"finished", "paused"}
    shown = fsamlab(cluster, "status", tmp_path / "runs" / "sweep")
    assert shown.returncode == 0, shown.stdout
    assert "5 runs: 2 finished, 3 paused" in shown.stdout
    assert "continue the study" not in shown.stdout
    local = ("hydra/launcher=local", "hydra.launcher.num_jobs=2")
    other = read_study(assert_as_undisturbed(cluster, tmp_path, STUDY, local))
    for group in (*study.groups, *other.groups):
        group.words = []
    assert study == other
