"""Several runs in one SLURM job: how they are submitted, started again and judged; without SLURM."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from support.fake_slurm import fake_tools, lines  # noqa: F401
from support.processes import finish
from support.runs import ROOT, compose_tiny

from fsamlab.config import ConfigError, to_plain
from fsamlab.config.identity import run_id
from fsamlab.rundir.frozen_job import MEASURE, TRAIN, FrozenJob
from fsamlab.rundir.killed import record_failure
from fsamlab.rundir.ownership import Ownership
from fsamlab.rundir.reading import read_status
from fsamlab.rundir.rows import read_rows
from fsamlab.storage.writing import write_json
from fsamlab.sweep import packed, pool, waiting
from fsamlab.sweep.packed import PackRunner, jobs_to_start
from fsamlab.sweep.packs import Pack, packs_of
from fsamlab.sweep.pool import Pool
from fsamlab.sweep.slurm import SubmititLauncher
from fsamlab.sweep.status import sweep_state
from fsamlab.terminal.errors import JobFailed

BEFORE, SUBMITTED, AFTER = (f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3))


def job(directory, task=TRAIN):
    return FrozenJob(task, {}, [], directory, {})


def put(directory, status=None, **fields):
    directory.mkdir(parents=True)
    if status is not None:
        write_json(directory / "status.json", {"status": status, **fields})
    return directory


@pytest.fixture
def in_job(monkeypatch):
    """This process is task 1 of the array 7."""
    for key, value in {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "1", "JOB_ID": "9", "CLUSTER_NAME": "lab"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)


# Submission


class Executor:
    def __init__(self):
        self.calls = []

    def update_parameters(self, **parameters):
        self.calls.append(parameters)

    def map_array(self, runner, units):
        assert isinstance(runner, PackRunner)
        self.calls.append([len(pack.jobs) for pack in units])
        base = 100 + len(self.calls)
        return [type("Handle", (), {"job_id": f"{base}_{i}"}) for i in range(len(units))]


def test_ten_runs_become_three_jobs(monkeypatch, tmp_path):
    launcher = SubmititLauncher(submitit_folder=str(tmp_path / "%j"), runs_per_job=4)
    executor, told = Executor(), []
    monkeypatch.setattr(launcher, "executor", lambda: executor)
    jobs = [job(tmp_path / str(i)) for i in range(10)]
    handles = []
    launcher._submit(jobs, handles, told.append)
    assert executor.calls == [[4, 4, 2]]
    assert told == [["101_0"] * 4 + ["101_1"] * 4 + ["101_2"] * 2]
    assert launcher._active(handles, told[0], set()) == set()


def test_check_says_the_jobs_and_the_share_of_each_run(monkeypatch, tmp_path):
    jobs = [FrozenJob(TRAIN, to_plain(compose_tiny()), [], tmp_path / str(i), {}) for i in range(10)]
    monkeypatch.setenv("PATH", str(tmp_path))  # without SLURM
    settings = {"submitit_folder": "", "runs_per_job": 4, "timeout_min": 60}
    many = SubmititLauncher(**settings, gpus_per_node=2, cpus_per_task=8)
    assert many.check(jobs) == (
        "10 runs in 3 jobs of at most 4 runs; each job has 1 task on 1 node, 2 GPUs: 2 GPU hours until its time limit; "
        "each run has 2 threads"
    )
    few = SubmititLauncher(**settings, cpus_per_task=2).check(jobs[:8])
    assert few == (
        "8 runs in 2 jobs of 4 runs; each job has 1 task on 1 node; each run has 1 thread; "
        "4 runs share 2 CPUs: raise hydra.launcher.cpus_per_task"
    )


def test_arrays_hold_jobs_and_not_runs(monkeypatch, tmp_path):
    launcher = SubmititLauncher(submitit_folder=str(tmp_path / "%j"), runs_per_job=2, max_array_size=2)
    executor, told = Executor(), []
    monkeypatch.setattr(launcher, "executor", lambda: executor)
    launcher._submit([job(tmp_path / str(i)) for i in range(5)], [], told.append)
    assert [call for call in executor.calls if isinstance(call, list)] == [[2, 2], [1]]
    assert told[-1] == ["102_0", "102_0", "102_1", "102_1", "104_0"]


def test_a_pack_is_pickled_with_all_that_a_restart_needs(tmp_path):
    packs = packs_of([job(tmp_path / str(i)) for i in range(3)], 2, 120)
    assert [len(pack.jobs) for pack in packs] == [2, 1]
    assert {(pack.runs_per_job, pack.leave_seconds) for pack in packs} == {(2, 90.0)}
    again = PackRunner().checkpoint(pickle.loads(pickle.dumps(packs[0])))
    assert again.args == (packs[0],)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runs_per_job": 0}, "hydra.launcher.runs_per_job=0: must be finite and >= 1"),
        ({"runs_per_job": "four"}, "hydra.launcher.runs_per_job=four: must be an integer"),
        ({"runs_per_job": None}, "hydra.launcher.runs_per_job=null: must be an integer, not null"),
        ({"runs_per_job": 4, "nodes": 2}, "hydra.launcher.runs_per_job=4: each run of the job is one process"),
        ({"runs_per_job": 4, "tasks_per_node": 2}, "hydra.launcher.runs_per_job=4: each run of the job is one"),
        (
            {"runs_per_job": 4, "gpus_per_node": 5},
            "hydra.launcher.gpus_per_node=5: each of the 4 runs of a job uses one",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(settings, words):
    with pytest.raises(ConfigError) as e:
        SubmititLauncher(submitit_folder="/nowhere", **settings)
    assert str(e.value).startswith(words)
    assert str(e.value).isprintable()


def test_more_runs_in_a_job_than_the_sweep_has():
    launcher = SubmititLauncher(submitit_folder="/nowhere", runs_per_job=4, gpus_per_node=4)
    launcher.check_number(4)
    with pytest.raises(ConfigError, match=r"runs_per_job=4: the sweep has 3 runs: use at most 3"):
        launcher.check_number(3)


# What a restart starts


def started(tmp_path, status, fields, task=TRAIN):
    directory = put(tmp_path / "run", status, **fields)
    pack = Pack((job(directory, task),), 4, SUBMITTED, 1.0)
    todo, failed = jobs_to_start(pack)
    return len(todo), len(failed)


OURS = {"slurm_job_id": "7_1", "updated": AFTER}


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (None, {}, (1, 0)),
        ("running", OURS, (1, 0)),
        ("preempted", OURS, (1, 0)),
        ("finished", OURS, (0, 0)),
        ("failed", OURS, (0, 1)),
        ("failed", {"slurm_job_id": "5_1", "updated": BEFORE}, (1, 0)),  # this job has not begun the run yet
        ("finished", {"slurm_job_id": "5_1", "updated": BEFORE}, (1, 0)),  # force=true; else the run leaves at once
        ("running", {"slurm_job_id": "8_0", "updated": AFTER}, (0, 0)),  # submitted again after it failed here
        ("finished", {"slurm_job_id": None, "updated": AFTER}, (0, 0)),
    ],
)
def test_a_restart_starts_what_was_interrupted(monkeypatch, in_job, tmp_path, status, fields, expected):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert started(tmp_path, status, fields) == expected


def test_a_first_start_starts_every_run_and_a_measurement_is_always_started(monkeypatch, in_job, tmp_path):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert started(tmp_path / "a", "failed", OURS) == (1, 0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert started(tmp_path / "b", "failed", OURS, task=MEASURE) == (1, 0)


# The word of the job about a run that left no word


def test_a_killed_run_is_recorded_as_failed(in_job, tmp_path):
    directory = put(tmp_path / "a", "running", slurm_job_id="5", attempts=2, exception=None)
    assert record_failure(directory, "killed by SIGKILL")
    status = read_status(directory)
    assert (status["status"], status["exception"]) == ("failed", "killed by SIGKILL")
    assert (status["slurm_job_id"], status["slurm_cluster"], status["attempts"]) == ("7_1", "lab", 2)
    assert status["updated"] > SUBMITTED


def test_a_word_of_the_run_itself_or_of_a_newer_attempt_stays(in_job, tmp_path, caplog):
    own = put(tmp_path / "own", "failed", slurm_job_id="7_1", exception="diverged")
    assert record_failure(own, "ended with exit code 1")
    assert read_status(own)["exception"] == "diverged"
    done = put(tmp_path / "done", "finished")
    assert not record_failure(done, "killed")
    taken = put(tmp_path / "taken", "running", slurm_job_id="8")
    owner = Ownership(taken)
    assert not record_failure(taken, "ended with exit code 1")
    assert read_status(taken)["status"] == "running"
    owner.release()
    assert record_failure(taken, "ended with exit code 1")
    assert not record_failure(tmp_path / "moved away", "killed")
    assert "moved away" in caplog.text


# The runs of a job while it runs


class ScriptedPool:
    """Ends jobs as a test says: each look at the pool takes the next list of (number, exit code)."""

    def __init__(self, jobs, slots, threads, gpus, *, hold):
        assert hold
        self.running, self.sent, self.shares, self.looks = {}, [], (slots, threads), 0
        self.jobs = jobs

    def start(self):
        self.running = dict(enumerate(self.jobs))
        return list(self.running)

    def gpu_of(self, index):
        return None

    def ended(self, seconds):
        self.looks += 1
        assert self.looks < 10_000, "the job waits for a run that does not leave"
        now = self.script.pop(0) if self.script else []
        if callable(now):
            now = now(self) or []
        for index, _ in now:
            del self.running[index]
        return now

    def send(self, signum):
        self.sent.append(signum)


@pytest.fixture
def work(monkeypatch, in_job, tmp_path):
    """Return a function that lets a pack of three runs go through a script, and gives the pool and the outcome."""
    monkeypatch.setattr(packed, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(packed, "KILLED_SECONDS", 0.0)
    monkeypatch.setattr(packed.logging, "basicConfig", lambda **k: None)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    pools, calls = [], []

    def make(*arguments, **keywords):
        pools.append(ScriptedPool(*arguments, **keywords))
        return pools[-1]

    def go(*script, handler=lambda signum, frame: calls.append(signum) or sys.exit(-1), leave=100.0):
        monkeypatch.setattr(ScriptedPool, "script", list(script), raising=False)
        monkeypatch.setattr(packed, "Pool", make)
        directories = [put(tmp_path / name, "running", slurm_job_id="7_1") for name in "abc"]
        pack = Pack(tuple(map(job, directories)), 4, SUBMITTED, leave)
        before = signal.signal(signal.SIGUSR2, handler)
        outcome = None
        try:
            PackRunner()(pack)
        except BaseException as e:
            outcome = e
        finally:
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler)
            signal.signal(signal.SIGUSR2, before)
        return pools[-1], outcome, calls, {d.name: read_status(d) for d in directories}

    return go


def usr2(pool):
    os.kill(os.getpid(), signal.SIGUSR2)


LEFT = 128 + signal.SIGUSR2


def test_the_others_finish_when_one_run_fails(work):
    pool, outcome, calls, states = work([(0, -signal.SIGKILL)], [(1, 1)], [], [(2, 0)])
    assert isinstance(outcome, JobFailed)
    assert re.fullmatch("2 of 3 runs of this job did not finish: (a, b|b, a)", str(outcome))
    assert states["a"]["exception"] == "killed by SIGKILL (out of memory?)"
    assert states["b"]["exception"] == "ended with exit code 1; see its run.log"
    assert (pool.sent, calls, pool.shares) == ([], [], (3, 2))


def test_a_signal_makes_one_restart_when_the_last_run_has_left(work):
    _, outcome, calls, states = work(usr2, [(0, LEFT)], usr2, [(1, 0)], [], [(2, LEFT)])
    assert isinstance(outcome, SystemExit)
    assert calls == [signal.SIGUSR2]
    assert {s["status"] for s in states.values()} == {"running"}  # the scripted runs write nothing themselves


def test_a_run_that_leaves_takes_the_others_with_it_and_a_late_run_delays_no_restart(work):
    pool, outcome, calls, _ = work([(0, LEFT)], [(1, LEFT)], leave=0.0)
    assert isinstance(outcome, SystemExit)
    assert pool.sent == [signal.SIGUSR2]
    assert calls == [signal.SIGUSR2]


def test_no_restart_without_a_run_that_continues(work):
    _, outcome, calls, _ = work(usr2, [(0, 0), (1, 0)], [(2, 0)])
    assert (outcome, calls) == (None, [])


def test_a_refused_restart_is_the_reason_of_every_unfinished_run(work):
    def refuse(signum, frame):
        raise RuntimeError("timed-out too many times")

    _, outcome, _, states = work(usr2, [(0, 0), (1, LEFT)], [(2, LEFT)], handler=refuse)
    assert isinstance(outcome, RuntimeError)
    assert [states[name]["exception"] for name in "bc"] == ["RuntimeError: timed-out too many times"] * 2


def test_a_request_for_a_restart_that_slurm_has_heard_is_none_that_failed(work):
    def scontrol(signum, frame):
        raise subprocess.CalledProcessError(-signal.SIGTERM, "scontrol requeue")

    _, outcome, _, states = work(usr2, [(i, LEFT) for i in range(3)], handler=scontrol)
    assert isinstance(outcome, SystemExit)
    assert {s["status"] for s in states.values()} == {"running"}


def test_runs_that_slurm_kills_with_the_job_have_not_failed(work):
    def term(pool):
        os.kill(os.getpid(), signal.SIGTERM)

    _, outcome, calls, states = work(term, [(i, -signal.SIGKILL) for i in range(3)])
    assert isinstance(outcome, JobFailed)
    assert calls == []
    assert {s["status"] for s in states.values()} == {"running"}


def test_an_interrupt_ends_the_job_without_a_restart(work):
    def interrupt(pool):
        os.kill(os.getpid(), signal.SIGINT)

    pool, outcome, calls, states = work(interrupt, [(i, LEFT) for i in range(3)])
    assert isinstance(outcome, JobFailed)
    assert (pool.sent, calls) == ([signal.SIGUSR2], [])
    assert {s["status"] for s in states.values()} == {"running"}


def test_a_run_that_was_stopped_alone_has_failed(work):
    _, outcome, calls, states = work([(0, 128 + signal.SIGINT)], [(1, 0), (2, 0)])
    assert isinstance(outcome, JobFailed)
    assert states["a"]["exception"] == "stopped by SIGINT"
    assert calls == []


# The state of each run


def record(sweep, number, jobs, time=SUBMITTED):
    """Write a launch record; `jobs` maps names of run directories to SLURM ids."""
    entries = [
        {"overrides": [f"seed={i}"], "directory": name, "run_id": name, "slurm_job_id": job_id}
        for i, (name, job_id) in enumerate(jobs.items())
    ]
    (sweep / "launches").mkdir(exist_ok=True)
    write_json(sweep / "launches" / f"{number}.json", {"time": time, "launcher": "slurm", "jobs": entries})


def judged(sweep):
    return {r.run.directory.name: (r.status, r.busy) for r in sweep_state([sweep]).runs}


@pytest.mark.parametrize(
    ("slurm", "failed", "other", "unborn"),
    [
        ("RUNNING", ("failed", False), ("running", True), ("running", True)),
        ("PENDING", ("failed", False), ("queued", True), ("queued", True)),
        ("REQUEUED", ("failed", False), ("queued", True), ("queued", True)),
        ("FAILED", ("failed", False), ("failed", False), ("failed", False)),
        ("CANCELLED", ("failed", False), ("cancelled", False), ("cancelled", False)),
        ("NODE_FAIL", ("failed", False), ("lost", False), ("lost", False)),
    ],
)
def test_the_runs_of_a_job_are_judged_one_by_one(tmp_path, fake, slurm, failed, other, unborn):
    fake(squeue=lines(f"7_1|{slurm}|None|n1|9"))
    record(tmp_path, 1, dict.fromkeys("abcd", "7_1"))
    put(tmp_path / "a", "failed", slurm_job_id="7_1", exception="killed by SIGKILL")
    put(tmp_path / "b", "preempted", slurm_job_id="7_1")
    put(tmp_path / "d", "finished", slurm_job_id="7_1")
    assert judged(tmp_path) == {"a": failed, "b": other, "c": unborn, "d": ("finished", False)}
    state = sweep_state([tmp_path]).runs[0]
    active = slurm in ("RUNNING", "PENDING", "REQUEUED")
    assert state.reason == ("killed by SIGKILL" if active else f"SLURM {slurm}: killed by SIGKILL")


@pytest.mark.parametrize(
    ("disk", "again", "expected"),
    [
        ({"status": "failed", "slurm_job_id": "7_1"}, "PENDING", ("queued", True)),
        ({"status": "running", "slurm_job_id": "8"}, "RUNNING", ("running", True)),
        ({"status": "failed", "slurm_job_id": "8"}, "FAILED", ("failed", False)),
        ({"status": "running", "slurm_job_id": "8"}, "OUT_OF_MEMORY", ("failed", False)),
        ({"status": "running", "slurm_job_id": "8"}, "CANCELLED", ("cancelled", False)),
    ],
)
def test_the_first_job_goes_on_and_says_nothing_about_a_run_that_was_submitted_again(
    tmp_path, fake, disk, again, expected
):
    fake(squeue=lines("7_1|RUNNING|None|n1|9", f"8|{again}|None|n1|8"))
    record(tmp_path, 1, dict.fromkeys("ab", "7_1"))
    record(tmp_path, 2, {"a": "8", "b": None}, AFTER)
    put(tmp_path / "a", **disk)
    assert judged(tmp_path) == {"a": expected, "b": ("running", True)}


def test_a_failed_run_is_over_for_the_launcher_though_its_job_goes_on(tmp_path, monkeypatch, capsys):
    jobs = [job(put(tmp_path / name)) for name in "ab"]
    polls = iter(range(3))

    def active(running):
        poll = next(polls)
        if poll == 0:
            write_json(tmp_path / "a" / "status.json", {"status": "failed", "updated": AFTER, "exception": "diverged"})
        else:
            assert running == {1}
            write_json(tmp_path / "b" / "status.json", {"status": "finished", "updated": AFTER})
        return running

    failures = waiting.wait_for(jobs, active, SUBMITTED, 0.0, shared=True)
    assert [failure is None for failure in failures] == [False, True]


def test_a_failed_run_with_a_job_of_its_own_is_waited_for_until_the_job_ends(tmp_path, capsys):
    """The tasks of a job end one after the other; a launch before the end of the last one finds the run busy."""
    jobs = [job(put(tmp_path / "a"))]
    write_json(tmp_path / "a" / "status.json", {"status": "failed", "updated": AFTER, "exception": "diverged"})
    polls = [{0}, {0}, set(), set()]
    (failure,) = waiting.wait_for(jobs, lambda running: polls.pop(0), SUBMITTED, 0.0)
    assert failure is not None
    assert polls == []


# Real processes


def test_a_process_has_its_share_of_the_threads_and_one_gpu(monkeypatch, tmp_path):
    for key, value in {"SLURM_CPUS_PER_TASK": "8", "CUDA_VISIBLE_DEVICES": "4,6", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(key, value)
    seen = {}
    names = ("SLURM_CPUS_PER_TASK", "CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(pool, "JobRunner", lambda: lambda job: seen.update({n: os.environ[n] for n in names}))
    monkeypatch.setattr(pool, "_redirect", lambda directory: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: seen.update(threads=number))
    jobs = Pool([job(tmp_path / str(i), MEASURE) for i in range(4)], 4, packed.threads_per_run(4), pool.visible_gpus())
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(jobs, "_context", SameProcess)
    assert jobs.start() == [0, 1, 2, 3]
    assert [jobs.gpu_of(index) for index in range(4)] == ["4", "6", "4", "6"]
    target, arguments = jobs.running[3]
    target(*arguments)
    assert seen == {"SLURM_CPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "6", "threads": 2}


class SameProcess:
    """A context of multiprocessing that starts nothing."""

    class Process(tuple):
        def __new__(cls, target, args, name):
            return super().__new__(cls, (target, args))

        def start(self):
            pass


def planned(sweep, *overrides):
    """Return a job that trains; its configuration is that of `finish` in support.processes."""
    config = compose_tiny(*overrides)
    return FrozenJob(TRAIN, to_plain(config), list(overrides), sweep / run_id(config), {})


def start_job(tmp_path, jobs, word="requeue", job_id="7", restart=0):
    """Start a SLURM job with these runs; four runs share four cores."""
    (tmp_path / "pack.pkl").write_bytes(pickle.dumps(Pack(tuple(jobs), 4, SUBMITTED, 60.0)))
    slurm = {"JOB_ID": job_id, "RESTART_COUNT": str(restart), "CPUS_PER_TASK": "4"}
    outer = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    command = [sys.executable, str(ROOT / "tests" / "support" / "packed_job.py"), str(tmp_path / "pack.pkl"), word]
    return subprocess.Popen(
        command,
        env={**outer, **{f"SLURM_{k}": v for k, v in slurm.items()}, "CUDA_VISIBLE_DEVICES": "4,6"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(process, condition):
    end = time.time() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < end
        time.sleep(0.02)


def at_step(jobs, step, attempts):
    states = [read_status(one.directory) for one in jobs]
    return all(
        s["status"] == "running" and s.get("step", 0) > step and s.get("attempts", 1) >= attempts for s in states
    )


def words_of(jobs):
    return [read_status(one.directory)["status"] for one in jobs]


@pytest.mark.long
def test_five_runs_in_one_job_through_failures_restarts_and_a_resubmission(tmp_path):
    long = ("optimizer=fsam", "train.epochs=80", "train.log_every_steps=1", "train.num_threads=null")
    short = planned(tmp_path, "optimizer=sgd", "train.max_steps=3")
    bad = planned(tmp_path, "optimizer=sgd", "optimizer.lr=1e6")
    victim = planned(tmp_path, "optimizer=sgd", "train.epochs=100000", "train.log_every_steps=1")
    a, b = (planned(tmp_path, *long, f"seed={seed}") for seed in (0, 1))

    process = start_job(tmp_path, [short, bad, victim, a, b])
    wait_until(process, lambda: words_of([short, bad]) == ["finished", "failed"] and at_step([victim, a, b], 2, 1))
    os.kill(read_status(victim.directory)["pid"], signal.SIGKILL)
    process.send_signal(signal.SIGUSR2)  # to this process alone; the job passes it on
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 255, output
    assert output.count("requeued") == 1
    assert "5 runs in this job, 1 thread each, on GPU 4 6" in output
    assert [output.count(f"started on GPU {gpu}") for gpu in (4, 6)] == [3, 2]
    assert words_of([short, bad, victim, a, b]) == ["finished", "failed", "failed", "preempted", "preempted"]
    assert "diverged" in read_status(bad.directory)["exception"]
    assert json.loads((a.directory / "env.json").read_text())["num_threads"] == 1  # of the four of the job

    process = start_job(tmp_path, [short, bad, victim, a, b], "refuse", restart=1)
    wait_until(process, lambda: at_step([a, b], read_status(a.directory).get("resumed_at", 0), 2))
    for one in (a, b):  # as SLURM does, which sends the signal to all processes of a job
        os.kill(read_status(one.directory)["pid"], signal.SIGUSR2)
    process.send_signal(signal.SIGUSR2)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "2 runs in this job, 1 thread each" in output
    assert words_of([short, bad, victim, a, b]) == ["finished", *["failed"] * 4]
    assert "timed-out too many times" in read_status(b.directory)["exception"]
    assert [read_status(one.directory)["attempts"] for one in (short, bad, victim, a, b)] == [1, 1, 1, 2, 2]

    process = start_job(tmp_path, [a, b], job_id="8")
    output, _ = process.communicate(timeout=480)
    assert process.returncode == 0, output
    assert words_of([a, b]) == ["finished", "finished"]
    for one in (a, b):
        reference = tmp_path / f"reference-{one.directory.name}"
        expected = finish((*one.overrides, "train.num_threads=1"), reference)
        ours = torch.load(one.directory / "checkpoints" / "last.pt", weights_only=True)["model"]
        assert all(torch.equal(ours[k], expected[k]) for k in expected)
        assert [r["train/loss"] for r in read_rows(one.directory)] == [r["train/loss"] for r in read_rows(reference)]


@pytest.mark.long
def test_the_runs_of_a_killed_job_write_their_checkpoints_and_leave(tmp_path):
    jobs = [planned(tmp_path, "train.epochs=100000", "train.log_every_steps=1", f"seed={seed}") for seed in (0, 1)]
    process = start_job(tmp_path, jobs)
    wait_until(process, lambda: at_step(jobs, 2, 1))
    process.kill()
    process.communicate()
    end = time.time() + 120
    while words_of(jobs) != ["preempted", "preempted"]:
        assert time.time() < end
        time.sleep(0.05)
    assert all((one.directory / "checkpoints" / "last.pt").exists() for one in jobs)
