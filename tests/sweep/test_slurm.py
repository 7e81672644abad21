"""Sweeps on a real SLURM: what they survive, what they report, and that they end in the same bits."""

import json
import os
import re
import signal
import subprocess

import pytest
from support.cluster_runs import SLURM, arguments, assert_as_undisturbed, fsamlab, preempt, runs, under_way

from fsamlab.rundir.reading import read_status

pytestmark = pytest.mark.slurm


def test_a_sweep_with_failing_jobs(cluster, tmp_path):
    words = arguments(tmp_path, "optimizer=sgd,fsam", "optimizer.lr=0.05,1e6")
    done = cluster.python(*words)
    assert done.returncode == 1, done.stderr
    assert "2 of 4 runs did not finish" in done.stderr
    assert done.stdout.count("diverged at step") == 2
    assert "2 of 4 runs finished" in done.stdout
    record = json.loads((tmp_path / "runs/sweep/launches/1.json").read_text())
    ids = {job["directory"]: job["slurm_job_id"] for job in record["jobs"]}
    assert sorted(ids) == [d.name for d in runs(tmp_path)]
    assert record["cluster"] == "lab"

    def states_at_the_end():  # a run has finished a moment before its job ends
        lines = cluster("sacct", "-n", "-X", "--parsable2", "-o", "JobID,State", "-j", ",".join(ids.values())).split()
        found = dict(line.split("|")[:2] for line in lines)
        return found if "RUNNING" not in found.values() else None

    states = cluster.wait_for("the end of the jobs", states_at_the_end)
    for directory in runs(tmp_path):
        finished = read_status(directory)["status"] == "finished"
        assert states[ids[directory.name]] == ("COMPLETED" if finished else "FAILED")
        assert read_status(directory)["slurm_job_id"] == ids[directory.name]
        assert read_status(directory)["slurm_cluster"] == "lab"
        assert finished or "diverged" in (directory / "run.log").read_text()
    again = cluster.python(*words)
    assert "2 of 4 runs are finished already" in again.stderr
    assert "2 jobs submitted" in again.stderr


def operators_requeue(cluster, directory, status):
    cluster("scontrol", "requeue", status["slurm_job_id"])


def user_signal(cluster, directory, status):
    cluster("scancel", "--signal", "USR2", status["slurm_job_id"])


def node_failure(cluster, directory, status):
    node = cluster("squeue", "-h", "-j", status["slurm_job_id"], "-o", "%N").strip()
    cluster("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    cluster.wait_for("end", lambda: read_status(directory)["attempts"] > status["attempts"], 180)
    # it may have come back by itself: its daemon was never gone
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], env=cluster.env, check=False)


@pytest.mark.parametrize("disturb", [preempt, operators_requeue, user_signal, node_failure])
def test_a_disturbed_run_ends_finished_in_the_same_bits(cluster, tmp_path, disturb):
    words = ("optimizer=fsam", "seed=0,1", "train.epochs=300", "train.log_every_steps=1")
    words += ("train.checkpoint_every_steps=50",)
    launcher = cluster.start(*arguments(tmp_path, *words, "hydra.launcher.partition=low"))
    directory, status = cluster.wait_for("a running job", lambda: under_way(tmp_path))[0]
    disturb(cluster, directory, status)
    output, _ = launcher.communicate(timeout=480)
    assert launcher.returncode == 0, output
    assert read_status(directory)["attempts"] == 2
    assert read_status(directory)["resumed_at"] > 0
    assert_as_undisturbed(cluster, tmp_path, words)


def test_a_job_with_several_runs_is_preempted_after_one_of_them_was_killed(cluster, tmp_path):
    words = ("optimizer=fsam", "seed=0,1,2", "train.epochs=300", "train.checkpoint_every_steps=100")
    together = ("hydra.launcher.runs_per_job=3", "hydra.launcher.partition=low")
    launcher = cluster.start(*arguments(tmp_path, *words, *together))
    (victim, killed), (other, status), (third, _) = cluster.wait_for("three runs", lambda: under_way(tmp_path, 3))
    assert read_status(third)["slurm_job_id"] == status["slurm_job_id"] == killed["slurm_job_id"]
    os.kill(killed["pid"], signal.SIGKILL)
    cluster.wait_for("the failed run", lambda: read_status(victim)["status"] == "failed")
    assert read_status(victim)["exception"] == "killed by SIGKILL (out of memory?)"
    assert {read_status(d)["status"] for d in (other, third)} == {"running"}
    preempt(cluster, other, status)
    output, _ = launcher.communicate(timeout=480)
    assert launcher.returncode == 1
    assert "3 runs submitted in 1 job of 3 runs" in output
    assert "2 of 3 runs finished" in output
    assert [read_status(d)["attempts"] for d in (victim, other, third)] == [1, 2, 2]
    assert min(read_status(d)["resumed_at"] for d in (other, third)) > 0
    job = status["slurm_job_id"]
    cluster.wait_for("FAILED", lambda: cluster("sacct", "-n", "-X", "-o", "State", "-j", job).split() == ["FAILED"])
    job_log = (tmp_path / f"runs/sweep/.submitit/{job}/{job}_0_log.err").read_text()
    assert job_log.count("2 runs continue after the restart of the job") == 1
    assert "1 of 3 runs of this job did not finish" in job_log
    done = fsamlab(cluster, "resubmit", tmp_path / "runs/sweep")
    assert done.returncode == 0, done.stderr
    assert "1 run submitted in 1 job" in done.stderr
    assert_as_undisturbed(cluster, tmp_path, words)


def test_the_time_limit(cluster, tmp_path):
    """slurmctld sends USR2 up to a minute early: here within half a minute of the start."""
    words = ("optimizer=fsam", "seed=0,1", "train.epochs=600", "train.checkpoint_every_steps=100")
    limit = ("timeout_min=1", "signal_delay_s=45", "max_num_timeout=100")
    launcher = cluster.start(*arguments(tmp_path, *words, *(f"hydra.launcher.{word}" for word in limit)))
    output, _ = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, output
    assert {read_status(d)["status"] for d in runs(tmp_path)} == {"finished"}
    assert max(read_status(d)["attempts"] for d in runs(tmp_path)) > 1
    assert_as_undisturbed(cluster, tmp_path, words)


def test_too_many_time_outs_end_a_run(cluster, tmp_path):
    words = ("optimizer=fsam", "seed=0", "model.width=4,5", "train.epochs=100000", "hydra.launcher.timeout_min=5")
    launcher = cluster.start(*arguments(tmp_path, *words, "hydra.launcher.max_num_timeout=0"))
    for directory, status in cluster.wait_for("two running jobs", lambda: under_way(tmp_path, 2)):
        user_signal(cluster, directory, status)
    launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    for directory in runs(tmp_path):
        assert "timed-out too many times" in read_status(directory)["exception"]
    assert all((d / "checkpoints" / "last.pt").exists() for d in runs(tmp_path))


def test_kill_cancel_and_resubmit(cluster, tmp_path):
    words = ("optimizer=fsam", "seed=0,1,2", "train.epochs=300", "train.checkpoint_every_steps=20")
    launcher = cluster.start(*arguments(tmp_path, *words))
    first, second, third = cluster.wait_for("three running jobs", lambda: under_way(tmp_path, 3))
    os.kill(first[1]["pid"], signal.SIGKILL)
    cluster("scancel", second[1]["slurm_job_id"])
    output, _ = launcher.communicate(timeout=480)
    assert launcher.returncode == 1
    assert "1 of 3 runs finished" in output
    before = (third[0] / "metrics.jsonl").read_bytes()
    shown = fsamlab(cluster, "status", tmp_path / "runs/sweep", "--json")
    assert shown.returncode == 1
    states = {entry["run_id"]: entry["status"] for entry in json.loads(shown.stdout)}
    assert states[second[0].name] == "cancelled"
    assert states[first[0].name] in ("failed", "lost")
    done = fsamlab(cluster, "resubmit", tmp_path / "runs/sweep")
    assert done.returncode == 0, done.stderr
    assert "2 jobs submitted" in done.stderr
    assert "3 of 3 runs finished" in done.stdout
    assert (third[0] / "metrics.jsonl").read_bytes() == before
    assert [read_status(d)["attempts"] for d, _ in (first, second, third)] == [2, 2, 1]
    assert "nothing to resubmit" in fsamlab(cluster, "resubmit", tmp_path / "runs/sweep").stderr
    assert_as_undisturbed(cluster, tmp_path, words)


def test_nothing_depends_on_the_launcher_or_one_slurmctld(cluster, tmp_path):
    words = ("optimizer=fsam", "seed=0,1", "train.epochs=400", "train.checkpoint_every_steps=20")
    launcher = cluster.start(*arguments(tmp_path, *words))
    cluster.wait_for("two running jobs", lambda: under_way(tmp_path, 2))
    again = cluster.python(*arguments(tmp_path, *words, "hydra.launcher.wait=false"))
    assert again.returncode == 0, again.stderr
    assert "2 of 2 runs are queued or running already" in again.stderr
    launcher.kill()
    launcher.communicate()
    pid = int((cluster.directory / "run" / "slurmctld.pid").read_text())
    cluster.wait_for("the state on disk", lambda: (cluster.directory / "state" / "job_state").stat().st_size > 500)
    subprocess.run(["sleep", "6"], check=True)  # slurmctld writes its state up to 5 s late
    os.kill(pid, signal.SIGKILL)
    subprocess.run([slurmctld_path()], env=cluster.env, check=True)
    cluster.wait_for("both", lambda: {read_status(d)["status"] for d in runs(tmp_path)} == {"finished"}, 180)
    assert_as_undisturbed(cluster, tmp_path, words)


def slurmctld_path():
    from support import slurmlab

    return slurmlab.tool("slurmctld")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_jobs_running_and_says_so(cluster, tmp_path, signum):
    launcher = cluster.start(*arguments(tmp_path, "optimizer=sgd", "seed=0,1", "train.epochs=150"))
    cluster.wait_for("two running jobs", lambda: under_way(tmp_path, 2, step=1))
    os.kill(launcher.pid, signum)
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 130
    assert "the jobs continue without this process" in output
    assert re.search(r"cancel +scancel \d+", output)
    cluster.wait_for("both", lambda: {read_status(d)["status"] for d in runs(tmp_path)} == {"finished"}, 60)


def test_a_refused_submission_is_one_line_and_leaves_nothing(cluster, tmp_path):
    done = cluster.python(*arguments(tmp_path, "optimizer=sgd", "seed=0,1", "hydra.launcher.partition=nowhere"))
    assert done.returncode == 1
    assert "sbatch refused" in done.stderr
    assert "invalid partition" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs/sweep/launches").glob("*"))
    assert not list((tmp_path / "runs/sweep/.submitit").glob("*.pkl"))


def test_without_accounting(cluster_without_accounting, tmp_path):
    cluster = cluster_without_accounting
    launcher = cluster.start(*arguments(tmp_path, "optimizer=fsam", "seed=0,1,2", "train.epochs=300"))
    victim, status = cluster.wait_for("a running job", lambda: under_way(tmp_path))[0]
    os.kill(status["pid"], signal.SIGKILL)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    assert "2 of 3 runs finished" in output
    states = {e["run_id"]: e["status"] for e in json.loads(fsamlab(cluster, "status", victim.parent, "--json").stdout)}
    assert states.pop(victim.name) in ("failed", "lost")
    assert set(states.values()) == {"finished"}


def test_measure_on_the_cluster(cluster, tmp_path):
    assert cluster.python(*arguments(tmp_path, "optimizer=fsam", "seed=0,1")).returncode == 0
    done = fsamlab(cluster, "measure", *runs(tmp_path), "diagnostics=light", "diagnostics.num_samples=32", *SLURM)
    assert done.returncode == 0, done.stderr
    assert all(list((d / "measurements").glob("last-*.jsonl")) for d in runs(tmp_path))
