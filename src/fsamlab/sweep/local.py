"""The local launcher: N jobs at once on this machine, each job in its own process.

The processes are forked from a server that has imported torch once. A job that dies stops no other job; its result is
read from its run directory, like every result.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fsamlab.rundir.frozen_job import FrozenJob, all_train
from fsamlab.sweep.job import JobRunner, make_directory
from fsamlab.sweep.launcher import JobLauncher, names_on_board, terminated_like_interrupted
from fsamlab.sweep.settings import check_settings
from fsamlab.terminal import errors
from fsamlab.terminal.output import outputs

log = logging.getLogger(__name__)

PRELOAD = ["fsamlab.run", "fsamlab.sweep.local", "sklearn.datasets"]
STOP_SECONDS = 120.0  # for all stopped jobs together to write their checkpoints
KILL_SECONDS = 10.0  # for the system to remove a killed job


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that jobs may use; torch, which is slow to import, is not asked."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    devices = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(devices.iterdir())))] if devices.is_dir() else []


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalLauncher(JobLauncher):
    """Runs `num_jobs` jobs at once.

    Args:
        num_jobs: null means one job for each GPU, or for each core where there is no GPU.
        threads_per_job: null divides the cores evenly.
    """

    def __init__(self, num_jobs: int | None = None, threads_per_job: int | None = None) -> None:
        check_settings({"num_jobs": num_jobs, "threads_per_job": threads_per_job})
        self.num_jobs, self.threads_per_job = num_jobs, threads_per_job

    def run(self, jobs: Sequence[FrozenJob], on_submitted: Callable[[list[str]], None]) -> list[str | None]:
        """Run all jobs and wait for their end."""
        from fsamlab.terminal.board import SweepBoard

        self.configure_log()
        gpus = visible_gpus()
        num_jobs, threads = self._share(jobs, len(gpus))
        plural = ["" if number == 1 else "s" for number in (num_jobs, threads)]
        log.info("%d job%s at once, %d thread%s each", num_jobs, plural[0], threads, plural[1])
        os.environ["OMP_NUM_THREADS"] = str(threads)  # OpenMP reads the variable once, when the server imports torch
        # A fork of this process would copy locks that its threads hold; a fresh interpreter for each job would import
        # torch each time. The server has imported torch once and has no threads: its forks are safe and start at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)

        waiting = list(range(len(jobs)))
        free = list(range(num_jobs))  # slots: a slot's number says which GPU its job gets
        running: dict[int, tuple[Any, int, int]] = {}  # sentinel -> process, slot, index of the job
        failures: list[str | None] = [None] * len(jobs)
        directories = dict(enumerate(job.directory for job in jobs))
        board = SweepBoard(directories, dict(enumerate(names_on_board(jobs))))
        with terminated_like_interrupted():
            try:
                with board:
                    while waiting or running:
                        while waiting and free:
                            index, slot = waiting.pop(0), free.pop(0)
                            env = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
                            process = context.Process(
                                target=_job, args=(jobs[index], threads, env), name=f"job {index}"
                            )
                            process.start()
                            running[process.sentinel] = (process, slot, index)
                            board.started(index)
                        # A sentinel becomes ready when its process ends, however it ends; the timeout is for the board.
                        ready = set(wait(list(running), timeout=0.5))
                        for sentinel in [s for s in running if s in ready]:
                            process, slot, index = running.pop(sentinel)
                            process.join()
                            free.append(slot)
                            failures[index] = _failure(process.exitcode)
                            board.ended(index, process.exitcode)
                        board.refresh(index for _, _, index in running.values())
            except BaseException:  # also Ctrl-C: without this process nobody would read how the jobs end
                _stop([process for process, _, _ in running.values()])
                raise
        return failures

    def _share(self, jobs: Sequence[FrozenJob], num_gpus: int) -> tuple[int, int]:
        """Return how many jobs run at once, and the threads of each job."""
        cores = usable_cores()
        num_jobs = self.num_jobs or num_gpus or cores
        if self.num_jobs is None and not all_train(jobs):
            num_jobs = min(num_jobs, len(jobs))  # few measurements get more threads each
        # Not from the number of jobs that train now: a resumed run needs the number of threads that it began with.
        threads = self.threads_per_job or max(1, cores // num_jobs)
        return min(num_jobs, len(jobs)), threads


def _stop(processes: list[Any]) -> None:
    """Ask jobs to write a checkpoint and to end; kill the jobs that do not end.

    The signal is not SIGINT: Ctrl-C has sent the jobs one already, and at a second SIGINT a job leaves at once.
    """
    signum = signal.SIGUSR2 if "SLURM_JOB_ID" in os.environ else signal.SIGTERM  # inside SLURM a run ignores SIGTERM
    log.warning(
        "stopping: %d running jobs write their checkpoints; the same command continues them",
        len(processes),
    )
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signum)
    deadline = time.monotonic() + STOP_SECONDS
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:  # also after a second Ctrl-C: the interpreter waits at its end, for ever, until no child process lives
        left = [process for process in processes if process.is_alive()]
        for process in left:
            process.kill()
        for process in left:
            process.join(KILL_SECONDS)
        if left:
            names = ", ".join(process.name for process in left)
            log.warning("killed, because they did not end in time: %s; their last checkpoints are kept", names)


def _failure(exitcode: int) -> str | None:
    """Return why a process failed, None if it did not fail; the exit code of a killed process is -signal."""
    if exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"ended with exit code {exitcode}; see its run.log" if exitcode else None


def _redirect(directory: Path) -> None:
    """Send all output of this process, also of C code, to the run.log of a directory."""
    output = os.open(directory / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in outputs():
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[attr-defined]


def _job(job: FrozenJob, threads: int, env: dict[str, str]) -> None:
    """Run one job in this fresh process; all output goes to the job's run.log."""
    import torch

    os.environ.update(env)
    torch.set_num_threads(threads)
    try:
        make_directory(job.directory)
        _redirect(job.directory)
        JobRunner()(job)
    except Exception as e:
        sys.exit(errors.report(e))
