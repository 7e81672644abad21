"""The local launcher: N jobs at once on this machine, each a process of its own.

Processes are forked from a server that has imported torch once. A job that dies takes nothing with
it; its result is read from its run directory, like every result.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from fsamlab.config.compose import register
from fsamlab.rundir.find import what_varies
from fsamlab.sweep.job import FrozenJob, JobRunner, make_directory
from fsamlab.sweep.settings import check_settings
from fsamlab.terminal import errors
from fsamlab.terminal.output import outputs

log = logging.getLogger(__name__)

PRELOAD = ["fsamlab.run", "fsamlab.sweep.local", "sklearn.datasets"]
STOP_SECONDS = 120.0  # for the checkpoints of jobs that are told to stop, all of them together
KILL_SECONDS = 10.0  # for the system to clear a killed job away


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs jobs may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    devices = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(devices.iterdir())))] if devices.is_dir() else []


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalLauncher(Launcher):
    """Runs `num_jobs` jobs at once.

    Args:
        num_jobs: null is one for each GPU, or for each core where there is no GPU.
        threads_per_job: null divides the cores evenly.
    """

    def __init__(self, num_jobs: int | None = None, threads_per_job: int | None = None) -> None:
        check_settings({"num_jobs": num_jobs, "threads_per_job": threads_per_job})
        self.num_jobs, self.threads_per_job = num_jobs, threads_per_job
        self.directories: list[Path] | None = None  # of the jobs, from a sweeper that knows them already
        self.names: list[str] | None = None  # of the jobs, where their directories' are not telling
        self.jobs: list[FrozenJob] | None = None  # as they were checked; without them, jobs compose when they start
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what every job needs."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; one that fails is a FAILED JobReturn and stops no other."""
        import cloudpickle

        from fsamlab.terminal.board import SweepBoard

        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        gpus, cores = visible_gpus(), usable_cores()
        num_jobs = self.num_jobs or len(gpus) or cores
        # not from the number of jobs that are left: a resumed run needs the thread count it began with
        threads = self.threads_per_job or max(1, cores // num_jobs)
        num_jobs = min(num_jobs, len(job_overrides))
        plural = ["" if number == 1 else "s" for number in (num_jobs, threads)]
        log.info("%d job%s at once, %d thread%s each", num_jobs, plural[0], threads, plural[1])
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read once, when the server imports torch
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)

        common = cloudpickle.dumps((self.hydra_context, self.config, self.task_function, Singleton.get_state()))
        waiting = list(enumerate(job_overrides, initial_job_idx))
        free = list(range(num_jobs))
        running: dict[int, tuple[Any, int, int]] = {}  # sentinel -> process, slot, index
        returns: dict[int, JobReturn] = {}
        directories = self.directories or [self._directory(overrides) for overrides in job_overrides]
        settings = what_varies(job_overrides)
        named = [f"{directory.name} {setting}".strip() for directory, setting in zip(directories, settings)]
        names = self.names or named
        board = SweepBoard(dict(enumerate(directories, initial_job_idx)), dict(enumerate(names, initial_job_idx)))
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            with board:
                while waiting or running:
                    while waiting and free:
                        index, overrides = waiting.pop(0)
                        slot = free.pop(0)
                        env = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
                        job = self.jobs[index - initial_job_idx] if self.jobs is not None else None
                        arguments = (job, common, list(overrides), index, threads, env)
                        process = context.Process(target=_job, args=arguments, name=f"job {index}")
                        process.start()
                        running[process.sentinel] = (process, slot, index)
                        board.started(index)
                    ready = set(wait(list(running), timeout=0.5))
                    for sentinel in [s for s in running if s in ready]:
                        process, slot, index = running.pop(sentinel)
                        process.join()
                        free.append(slot)
                        returns[index] = _job_return(job_overrides[index - initial_job_idx], process.exitcode)
                        board.ended(index, process.exitcode)
                    board.refresh(index for _, _, index in running.values())
        except BaseException:
            _stop([process for process, _, _ in running.values()])
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
        return [returns[i] for i in sorted(returns)]

    def _directory(self, overrides: Sequence[str]) -> Path:
        assert self.config is not None
        assert self.hydra_context is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        return Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _stop(processes: list[Any]) -> None:
    """Ask jobs to checkpoint and end, not by INT: a second one would make them leave at once; kill the deaf ones."""
    signum = signal.SIGUSR2 if "SLURM_JOB_ID" in os.environ else signal.SIGTERM  # inside SLURM, TERM means go on
    log.warning(
        "stopping: %d running jobs write their checkpoints; the same command goes on",
        len(processes),
    )
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signum)
    deadline = time.monotonic() + STOP_SECONDS
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:  # also after a second Ctrl-C: the interpreter's end would wait for what is alive, without a bound
        deaf = [process for process in processes if process.is_alive()]
        for process in deaf:
            process.kill()
        for process in deaf:
            process.join(KILL_SECONDS)
        if deaf:
            names = ", ".join(process.name for process in deaf)
            log.warning("killed, since they had not ended yet: %s; they go on from their last checkpoints", names)


def _job_return(overrides: Sequence[str], exitcode: int) -> JobReturn:
    ret = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED if exitcode == 0 else JobStatus.FAILED)
    if exitcode < 0:
        ret._return_value = RuntimeError(f"killed by {signal.Signals(-exitcode).name}")
    elif exitcode > 0:
        ret._return_value = RuntimeError(f"ended with exit code {exitcode}; see its run.log")
    return ret


def _redirect(directory: Path) -> None:
    """Send output of any kind to a directory's run.log."""
    output = os.open(directory / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in outputs():
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[attr-defined]


def _job(
    job: FrozenJob | None, common: bytes, overrides: list[str], index: int, threads: int, env: dict[str, str]
) -> None:
    """Run one job in this fresh process, a frozen one or one that is composed now; output goes to its run.log."""
    import torch

    os.environ.update(env)
    torch.set_num_threads(threads)
    if job is None:
        sys.exit(_composed_job(common, overrides, index))
    try:
        make_directory(job.directory)
        _redirect(job.directory)
        JobRunner()(job)
    except Exception as e:
        sys.exit(errors.report(e))


def _composed_job(common: bytes, overrides: list[str], index: int) -> int:
    import cloudpickle

    hydra_context, config, task_function, singletons = cloudpickle.loads(common)
    setup_globals()
    Singleton.set_state(singletons)
    register()
    cfg = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(cfg):
        cfg.hydra.job.id = str(index)
        cfg.hydra.job.num = index
        cfg.hydra.job_logging.root.handlers = ["file"]
    directory = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
    directory.mkdir(parents=True, exist_ok=True)
    _redirect(directory)
    ret = run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    return errors.report(ret._return_value) if ret.status is JobStatus.FAILED else 0
