"""Runs that two tasks on two nodes train together: what they survive, how they fail, and whether their bits agree."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.cluster_runs import arguments, assert_as_undisturbed, fsamlab, runs, under_way

from fsamlab.rundir.reading import read_status
from fsamlab.rundir.rows import read_rows

pytestmark = pytest.mark.slurm
TWO_NODES = ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1")
# the same two tasks on this machine, without SLURM
TWO_HERE = (
    *("hydra/launcher=slurm_cpu", "hydra.launcher.cluster=local", "hydra.launcher.tasks_per_node=2"),
    *("hydra.launcher.poll_seconds=0.5", "hydra.launcher.timeout_min=60"),
)


def pid_of(status, task):
    """Return the process of a task of the job that has written a status."""
    wanted = {f"SLURM_JOB_ID={status['slurm_job']}".encode(), f"SLURM_PROCID={task}".encode()}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            ours = (place / "comm").read_text().startswith("python")  # srun has the same variables
            if ours and wanted <= set((place / "environ").read_bytes().split(b"\0")):
                return int(place.name)
        except OSError:
            continue
    raise AssertionError(f"no process of task {task} of job {status['slurm_job_id']}")


def raw_ids(cluster, found):
    """Add each job's own number, which its processes know, to the statuses."""
    lines = cluster("squeue", "-h", "-r", "-o", "%i|%A").split()
    own = dict(line.split("|") for line in lines)
    return [(directory, {**status, "slurm_job": own[status["slurm_job_id"]]}) for directory, status in found]


def both_under_way(cluster, tmp_path, attempts, beyond=20):
    found = cluster.wait_for("two running jobs", lambda: under_way(tmp_path, 2, step=beyond))
    cluster.wait_for("their attempts", lambda: {read_status(d)["attempts"] for d in runs(tmp_path)} == {attempts})
    found = cluster.wait_for("two running jobs", lambda: under_way(tmp_path, 2, step=beyond))
    return raw_ids(cluster, found)


def test_two_jobs_of_two_tasks_are_disturbed_and_end_in_the_same_bits(cluster, tmp_path):
    """They share their nodes. An urgent job takes a node, an operator requeues one, one task alone gets the signal."""
    words = ("optimizer=fsam", "seed=0,1", "train.epochs=80", "train.log_every_steps=10")
    words += ("train.checkpoint_every_steps=50",)
    launcher = cluster.start(*arguments(tmp_path, *words, *TWO_NODES, "hydra.launcher.partition=low"))
    jobs = both_under_way(cluster, tmp_path, 1)
    nodes = {cluster("squeue", "-h", "-j", status["slurm_job_id"], "-o", "%N").strip() for _, status in jobs}
    assert nodes == {"127.0.1.[1-2]"}
    cluster("sbatch", "-p", "urgent", "-w", "127.0.1.2", "-c", "8", "-t", "1", "--wrap", "sleep 2", "-o", "/dev/null")
    (first, status), (second, other) = both_under_way(cluster, tmp_path, 2)
    assert min(read_status(d)["resumed_at"] for d in runs(tmp_path)) > 0
    os.kill(pid_of(status, 1), signal.SIGUSR2)
    cluster("scontrol", "requeue", other["slurm_job_id"])
    output, _ = launcher.communicate(timeout=480)
    assert launcher.returncode == 0, output
    assert {d.name: read_status(d)["attempts"] for d in (first, second)} == {first.name: 3, second.name: 3}
    log = tmp_path / "runs/sweep/.submitit" / status["slurm_job_id"] / f"{status['slurm_job_id']}_1_log.err"
    assert log.read_text().count("preempted by SIGUSR2 after step") >= 1
    assert "lost the others" not in log.read_text()  # task 0 requeues the job before any task ends
    assert_as_undisturbed(cluster, tmp_path, words, TWO_HERE)


def test_a_dead_and_a_hanging_task_end_their_jobs_and_one_task_goes_on(cluster, tmp_path):
    words = ("optimizer=fsam", "seed=0,1,2", "train.epochs=60", "train.checkpoint_every_steps=20")
    words += ("train.rank_timeout_minutes=0.5",)
    launcher = cluster.start(*arguments(tmp_path, *words, *TWO_NODES))
    found = cluster.wait_for("three running jobs", lambda: under_way(tmp_path, 3))
    (dead, status), (hanging, other), (gone, third) = raw_ids(cluster, found)
    os.kill(pid_of(status, 1), signal.SIGKILL)
    os.kill(pid_of(other, 1), signal.SIGSTOP)
    for task in (1, 0):
        os.kill(pid_of(third, task), signal.SIGKILL)
    output, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 1
    assert "0 of 3 runs finished" in output
    cluster.wait_for("the end of all tasks", lambda: not cluster("squeue", "-h"), 60)
    shown = json.loads(fsamlab(cluster, "status", tmp_path / "runs/sweep", "--json").stdout)
    states = {entry["run"]: entry for entry in shown}
    assert {entry["status"] for entry in shown} == {"failed"}
    assert {entry["slurm_state"] for entry in shown} == {"FAILED"}
    assert "task 1 on 127.0.1.2: Killed" in states[dead.name]["reason"]
    assert "lost the others" in states[hanging.name]["reason"]
    done = fsamlab(cluster, "resubmit", tmp_path / "runs/sweep", "hydra.launcher.nodes=1")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs finished" in done.stdout
    assert min(read_status(d)["resumed_at"] for d in (dead, hanging, gone)) > 0
    for directory in (dead, hanging, gone):
        assert "num_ranks: 2 -> 1" in (directory / "run.log").read_text()
        steps = [row["step"] for row in read_rows(directory)]
        assert steps == sorted(set(steps))
