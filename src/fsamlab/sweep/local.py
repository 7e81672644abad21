"""The local launcher: N jobs at once on this machine, each job in its own process (pool.py).

A job that dies stops no other job; its result is read from its run directory, like every result.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from fsamlab.config import ConfigError
from fsamlab.rundir.frozen_job import FrozenJob, all_train
from fsamlab.sweep.launcher import JobLauncher, names_on_board, terminated_like_interrupted
from fsamlab.sweep.pool import Pool, failure, start_server, usable_cores, visible_gpus
from fsamlab.sweep.settings import check_settings

log = logging.getLogger(__name__)

LOCAL_HAS = "is not a setting of hydra/launcher=local, which has num_jobs and threads_per_job"
STOP_SECONDS = 120.0  # for all stopped jobs together to write their checkpoints
KILL_SECONDS = 10.0  # for the system to remove a killed job


class LocalLauncher(JobLauncher):
    """Runs `num_jobs` jobs at once.

    Args:
        num_jobs: null means one job for each GPU, or for each core where there is no GPU.
        threads_per_job: null divides the cores evenly.
    """

    def __init__(self, num_jobs: int | None = None, threads_per_job: int | None = None, **other: Any) -> None:
        for name, value in other.items():
            raise ConfigError(f"hydra.launcher.{name}", value, LOCAL_HAS)
        check_settings({"num_jobs": num_jobs, "threads_per_job": threads_per_job})
        self.num_jobs, self.threads_per_job = num_jobs, threads_per_job

    def prepare(self) -> None:
        """Start the server, which imports torch while this process composes the jobs."""
        start_server(self._threads(self.num_jobs or len(visible_gpus()) or usable_cores()))

    def run(self, jobs: Sequence[FrozenJob], on_submitted: Callable[[list[str]], None]) -> list[str | None]:
        """Run all jobs and wait for their end."""
        from fsamlab.terminal.board import SweepBoard

        self.configure_log()
        gpus = visible_gpus()
        num_jobs, threads = self._share(jobs, len(gpus))
        plural = ["" if number == 1 else "s" for number in (num_jobs, threads)]
        log.info("%d job%s at once, %d thread%s each", num_jobs, plural[0], threads, plural[1])
        pool = Pool(jobs, num_jobs, threads, gpus)
        failures: list[str | None] = [None] * len(jobs)
        directories = dict(enumerate(job.directory for job in jobs))
        board = SweepBoard(directories, dict(enumerate(names_on_board(jobs))))
        with terminated_like_interrupted():
            try:
                with board:
                    while pool.waiting or pool.running:
                        for index in pool.start():
                            board.started(index)
                        for index, exitcode in pool.ended(0.5):  # not longer, because the board shows progress
                            failures[index] = failure(exitcode)
                            board.ended(index, exitcode)
                        board.refresh(pool.running)
            except BaseException:  # also Ctrl-C: without this process nobody would read how the jobs end
                _stop(list(pool.running.values()))
                raise
        return failures

    def _share(self, jobs: Sequence[FrozenJob], num_gpus: int) -> tuple[int, int]:
        """Return how many jobs run at once, and the threads of each job."""
        num_jobs = self.num_jobs or num_gpus or usable_cores()
        if self.num_jobs is None and not all_train(jobs):
            num_jobs = min(num_jobs, len(jobs))  # few measurements get more threads each
        # Not from the number of jobs that train now: a resumed run needs the number of threads that it began with.
        return min(num_jobs, len(jobs)), self._threads(num_jobs)

    def _threads(self, num_jobs: int) -> int:
        return self.threads_per_job or max(1, usable_cores() // num_jobs)


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
