"""check, resubmit, frozen configurations, changed code, and jobs that get nowhere; without a cluster."""

import dataclasses
import json
import multiprocessing
import signal
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from support.runs import ROOT, TINY, compose_tiny

from fsamlab import run as run_module
from fsamlab.command.main import main as fsamlab
from fsamlab.config import ConfigError, to_plain
from fsamlab.config.identity import run_id
from fsamlab.run import run, run_frozen
from fsamlab.run.resume import MAX_STARTS_HERE, NoProgress
from fsamlab.rundir.frozen_job import MEASURE, TRAIN, FrozenJob
from fsamlab.rundir.ownership import DirectoryBusy
from fsamlab.rundir.reading import read_status
from fsamlab.sweep import launcher as sweep_launcher
from fsamlab.sweep import local as local_launcher
from fsamlab.sweep import pool, slurm
from fsamlab.sweep.job import JobRunner
from fsamlab.sweep.launches import Plans, add_job_ids, read_launches, write_launch
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.slurm import SubmititLauncher
from fsamlab.sweep.submit import changed_since, choose, start, sweep_lock
from fsamlab.terminal.errors import SweepFailed
from fsamlab.train.signals import Preempted

CODE = {"sha": "a" * 40, "dirty": False, "source": "0123456789ab"}


def one(tmp_path, *overrides):
    config = compose_tiny("train.max_steps=3", *overrides)
    return config, tmp_path / run_id(config)


@pytest.fixture
def local(tmp_path):
    return [*TINY, "train.max_steps=3", "name=sweep", f"runs_dir={tmp_path / 'runs'}", "hydra.launcher.num_jobs=1"]


def test_check_shows_every_job_and_writes_nothing(local, tmp_path, capsys):
    assert fsamlab(["check", *local, "optimizer=sgd,fsam", "seed=0,1"]) == 0
    shown = capsys.readouterr().out
    assert "4 runs below" in shown
    assert "4 new" in shown
    assert shown.count("fsam-small_cnn-synthetic") == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optimizer.rhoo=1", "unknown key (did you mean rho?)"),
        ("optimizer.rho=-1,0.1", "optimizer.rho=-1"),
        ("+sweeps=nothing", "sweeps=nothing"),
        ("hydra/launcher=slrm", "slrm"),
    ],
)
def test_check_refuses_in_one_line(local, tmp_path, capsys, word, says):
    assert fsamlab(["check", *local, word]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_launch_keeps_its_configurations(tmp_path):
    config, directory = one(tmp_path)
    plan = JobPlan.of(config, ["seed=0"], directory)
    dirty = {**CODE, "dirty": True}
    written = write_launch(tmp_path, [plan], ["launch.py"], ROOT, dirty, "SubmititLauncher", ["hydra/launcher=slurm"])
    assert written.path.with_suffix(".diff").exists()
    (launch,) = read_launches(tmp_path)
    assert launch.plans() == Plans([plan], [], None)
    assert launch.jobs[0].slurm_job_id is None
    add_job_ids(written, {directory: "12_0"})
    assert read_launches(tmp_path)[0].jobs[0].slurm_job_id == "12_0"
    assert changed_since(tmp_path, [plan]) == []
    other = JobPlan.of(dataclasses.replace(config, seed=1), ["seed=0"], tmp_path / "other")
    (line,) = changed_since(tmp_path, [other])
    assert plan.run_id in line
    assert other.run_id in line


def test_a_frozen_job_runs_what_was_submitted(tmp_path):
    config, directory = one(tmp_path)
    job = FrozenJob("fsamlab.run:run_frozen", to_plain(config), ["seed=0"], directory, {})
    run_frozen(job)
    assert read_status(directory)["status"] == "finished"
    elsewhere = dataclasses.replace(job, directory=tmp_path / "sgd-small_cnn-synthetic-s0-00000000")
    with pytest.raises(ConfigError, match="gives the configuration the run id"):
        run_frozen(elsewhere)
    assert not elsewhere.directory.exists()


def test_a_job_that_was_submitted_before_the_functions_moved_finds_its_function(tmp_path, monkeypatch):
    from fsamlab.sweep import job as sweep_job

    assert sweep_job.FrozenJob is FrozenJob  # the name of the class in such a pickle
    called = []
    monkeypatch.setattr("fsamlab.command.measure.measure_frozen", called.append)
    monkeypatch.setattr(sweep_job, "log_to", lambda path: None)
    job = FrozenJob("fsamlab.measure:measure_frozen", {}, [], tmp_path, {})
    JobRunner()(job)
    assert called == [job]


def test_a_job_does_not_make_its_moved_sweep_again(tmp_path, capfd):
    config, _ = one(tmp_path)
    before, now = tmp_path / "runs" / "before", tmp_path / "runs" / "now"
    job = FrozenJob("fsamlab.run:run_frozen", to_plain(config), [], before / run_id(config), {})
    now.mkdir(parents=True)  # moved while the job waited
    with pytest.raises(ConfigError, match=rf"directory={before}.*resubmit"):
        JobRunner()(job)
    with pytest.raises(SystemExit) as ended:
        pool.run_job(job, 1, {})
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert f"directory={before}: does not exist any more" in said
    assert "Traceback" not in said
    assert not before.exists()


def test_jobs_that_do_not_stop_are_killed(monkeypatch, caplog):
    """The interpreter's end would wait for them without a bound."""
    monkeypatch.setattr(local_launcher, "STOP_SECONDS", 0.2)
    ask = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what a process ignores, its child does
    try:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=time.sleep, args=(600,), name=f"job {i}") for i in (3, 5)]
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGTERM, ask)
    try:
        local_launcher._stop(processes)
        assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
    finally:
        for process in processes:
            process.kill()
            process.join()
    (line,) = [record.message for record in caplog.records if "killed" in record.message]
    assert line.startswith("killed, because they did not end in time: job 3, job 5;")


def test_changed_code_is_said_or_refused(tmp_path, caplog):
    config, directory = one(tmp_path)
    run(config, directory, submitted=CODE)
    (warning,) = read_status(directory)["warnings"]
    assert "the code has changed since it was submitted: commit aaaaaaaaa, source 0123456789ab -> " in warning
    assert warning in caplog.text
    config, directory = one(tmp_path, "on_code_change=refuse", "seed=1")
    with pytest.raises(ConfigError, match="go back to the earlier code"):
        run(config, directory, submitted=CODE)
    assert read_status(directory)["status"] == "failed"


def test_the_same_code_is_no_change(tmp_path):
    from fsamlab.rundir.environment import code_version

    config, directory = one(tmp_path, "on_code_change=refuse")
    run(config, directory, submitted=code_version(ROOT))
    assert read_status(directory)["warnings"] == []


def interrupted(monkeypatch, step):
    """Make a run stop before it gets beyond `step`, as a time limit that is too short does."""
    original = run_module.Bookkeeper.boundary

    def boundary(self):
        if self.trainer.step > step:
            raise Preempted(12, step)
        original(self)

    monkeypatch.setattr(run_module.Bookkeeper, "boundary", boundary)


def test_slurm_restarts_that_get_nowhere_end(tmp_path, monkeypatch):
    config, directory = one(tmp_path, "train.checkpoint_every_steps=1")
    interrupted(monkeypatch, 1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for restart in range(1 + MAX_STARTS_HERE):  # the first start gets to step 1, the others nowhere
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        with pytest.raises(Preempted):
            run(config, directory)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(1 + MAX_STARTS_HERE))
    with pytest.raises(NoProgress, match="3 starts in a row ended without a checkpoint beyond step 1"):
        run(config, directory)
    assert read_status(directory)["status"] == "failed"
    monkeypatch.undo()
    run(config, directory)  # by hand, after something was changed
    assert read_status(directory)["status"] == "finished"


def test_restarts_that_make_progress_are_not_counted(tmp_path, monkeypatch):
    config, directory = one(tmp_path, "train.checkpoint_every_steps=1", "train.max_steps=8")
    for restart in range(7):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        with monkeypatch.context() as patch:
            interrupted(patch, 1 + restart)
            with pytest.raises(Preempted):
                run(config, directory)
    run(config, directory)
    assert read_status(directory)["status"] == "finished"
    assert read_status(directory)["attempts"] == 8


def test_resubmit_refuses_what_would_change_a_run(tmp_path, capsys):
    assert fsamlab(["resubmit", str(tmp_path)]) == 1
    assert "has no launches/<n>.json" in capsys.readouterr().err
    config, directory = one(tmp_path)
    write_launch(tmp_path, [JobPlan.of(config, ["seed=0"], directory)], [], ROOT, CODE)
    assert fsamlab(["resubmit", str(tmp_path), "optimizer.rho=1"]) == 1
    assert "only the launcher's settings" in capsys.readouterr().err


@pytest.mark.long
def test_resubmit_starts_only_what_failed(launch, tmp_path):
    """The failure lies outside the configuration: data that are not there yet."""
    import subprocess
    import sys

    import numpy as np
    from PIL import Image

    words = ("-m", "name=sweep", "data=image_folder", f"data.root={tmp_path / 'images'}", "data.num_workers=0")
    words += ("data.image_size=8", "data.resize=8", "data.batch_size=4", "model.width=4", "tracker=none")
    words += ("train.epochs=1", "seed=0,1")
    failed = launch(*words, "optimizer=sgd", "hydra.launcher.num_jobs=1")
    assert failed.returncode == 1, failed.stderr
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(16):
                pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    sweep = tmp_path / "runs" / "sweep"
    command = [sys.executable, "-m", "fsamlab.command.main", "resubmit", str(sweep)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 runs finished" in done.stdout
    assert [json.loads((sweep / f"launches/{n}.json").read_text())["jobs"] != [] for n in (1, 2)] == [True, True]


@pytest.mark.long
def test_submitits_local_executor(launch, tmp_path):
    words = ("-m", *TINY, "name=sweep", "hydra/launcher=slurm_cpu", "hydra.launcher.cluster=local")
    done = launch(*words, "+hydra.launcher.poll=1", "optimizer=sgd")
    assert done.returncode == 1
    done = launch(*words, "hydra.launcher.poll_seconds=0.5", "optimizer=sgd", "optimizer.lr=0.05,1e6")
    assert done.returncode == 1, done.stderr
    assert "1 of 2 runs finished" in done.stdout
    assert "diverged" in done.stdout


def test_a_restart_of_a_forced_job_goes_on(tmp_path, monkeypatch):
    """SLURM starts a job again that has started its run over: not a third time from step 0."""
    config, directory = one(tmp_path)
    run(config, directory)
    forced = FrozenJob("", to_plain(dataclasses.replace(config, force=True)), [], directory, {})
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    run_frozen(forced)
    assert read_status(directory)["attempts"] == 2
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run_frozen(forced)
    assert read_status(directory)["attempts"] == 2  # finished by this job: nothing left to do
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    run_frozen(forced)
    assert read_status(directory)["attempts"] == 3


def test_a_stale_heartbeat_of_another_node_is_waited_for(tmp_path, monkeypatch):
    config, directory = one(tmp_path)
    directory.mkdir()
    owner = {"token": "x", "attempt": 1, "host": "elsewhere", "pid": 1, "pid_start": "1", "slurm_job_id": "3"}
    (directory / "owner.json").write_text(json.dumps(owner))
    waited = []

    def sleep(seconds):
        if seconds != 5:  # another thread of this process
            return
        waited.append(seconds)
        (directory / "owner.json").write_text(json.dumps({**owner, "released": True}))

    monkeypatch.setattr(run_module.time, "sleep", sleep)
    job = FrozenJob("", to_plain(config), [], directory, {})
    with pytest.raises(DirectoryBusy, match="elsewhere"):
        run_frozen(job)
    assert not waited
    monkeypatch.setenv("SLURM_JOB_ID", "4")
    run_frozen(job)
    assert waited == [5]
    assert read_status(directory)["status"] == "finished"


@pytest.mark.parametrize("is_main", [True, False])
def test_rank_0_alone_decides_that_the_directory_stays_busy(tmp_path, monkeypatch, is_main):
    """The others come again as long as rank 0 does; a rank that gave up alone would end the job."""
    config, directory = one(tmp_path)
    answers = ["busy", "busy", "free"]

    def busy_twice(*arguments, **keywords):
        if answers.pop(0) == "busy":
            raise DirectoryBusy("busy")

    monkeypatch.setenv("SLURM_JOB_ID", "4")
    monkeypatch.setattr(run_module, "run", busy_twice)
    monkeypatch.setattr(run_module, "joined", lambda *arguments: nullcontext(SimpleNamespace(is_main=is_main)))
    monkeypatch.setattr(run_module, "STALE_SECONDS", -1000.0)  # the time is up
    monkeypatch.setattr(run_module.time, "sleep", lambda seconds: None)
    job = FrozenJob("", to_plain(config), [], directory, {})
    if is_main:
        with pytest.raises(DirectoryBusy):
            run_frozen(job)
    else:
        run_frozen(job)
    assert len(answers) == (2 if is_main else 0)


def test_a_later_array_that_is_refused_loses_nothing(tmp_path, monkeypatch, caplog):
    """The accepted jobs are recorded and printed with the command that stops them; nobody waits, no table is shown."""

    class FailedJobError(RuntimeError):
        pass

    class Executor:
        calls = 0

        def update_parameters(self, **parameters):
            pass

        def map_array(self, runner, jobs):
            Executor.calls += 1
            if Executor.calls == 3:
                raise FailedJobError("\nsbatch: error: QOSMaxSubmitJobPerUserLimit")
            return [SimpleNamespace(job_id=f"{Executor.calls}_{i}") for i in range(len(jobs))]

    plans = [JobPlan.of(config, [], d) for config, d in (one(tmp_path, f"seed={seed}") for seed in range(5))]
    launcher = SubmititLauncher(max_array_size=2, submitit_folder=str(tmp_path / ".submitit" / "%j"))
    hydra = {"hydra_logging": {}, "verbose": False, "sweep": {"dir": str(tmp_path)}}
    launcher.config = OmegaConf.create({"hydra": hydra})
    monkeypatch.setattr(sweep_launcher, "configure_log", lambda *arguments: None)
    monkeypatch.setattr(launcher, "executor", Executor)
    monkeypatch.setattr(slurm, "local_cluster", lambda: "here")
    caplog.set_level("INFO", "fsamlab")
    ended = []
    refusal = "4 runs were submitted and continue, the other 1 were refused: sbatch: error: QOSMaxSubmitJobPerUserLimit"
    with sweep_lock(tmp_path) as lock:
        choice = choose(tmp_path, plans, force=False)
        with pytest.raises(SweepFailed, match=refusal):
            start(launcher, tmp_path, choice, lock, argv=[], hydra_overrides=[], on_end=ended.append)
    assert ended == []
    assert "4 jobs submitted: 1_[0-1], 2_[0-1]" in caplog.text
    assert f"directories  {tmp_path}/" in caplog.text
    assert "cancel       scancel 1 2" in caplog.text
    (launch,) = read_launches(tmp_path)
    assert [job.slurm_job_id for job in launch.jobs] == ["1_0", "1_1", "2_0", "2_1", None]
    assert launch.cluster == "here"


def test_jobs_that_measure_are_not_followed_by_a_command_that_shows_training(tmp_path, caplog):
    caplog.set_level("INFO", "fsamlab")
    launcher = SubmititLauncher(submitit_folder=str(tmp_path / ".submitit" / "%j"))
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    launcher._tell([FrozenJob(TRAIN, {}, [], tmp_path / str(i), {}) for i in range(2)], ["7_0", "7_1"])
    assert f"fsamlab status {tmp_path} --watch" in caplog.text
    caplog.clear()
    measures = [FrozenJob(MEASURE, {}, [], tmp_path / str(i) / "measurements", {}) for i in range(3)]
    launcher._tell(measures, ["7_0", "7_1", "8_0"])
    assert "fsamlab status" not in caplog.text
    assert "watch        squeue -j 7,8" in caplog.text
    assert f"{tmp_path}/RUN/measurements/run.log" in caplog.text
