"""A SLURM job that holds several runs: they train side by side, each in a process of its own (pool.py).

submitit pickles a :class:`PackRunner` and a Pack (packs.py). The process that submitit starts trains nothing. It starts
the runs, waits for them, and asks SLURM once to start the job again when all runs that still train have written their
checkpoints. What happened to a run stands in the run's own directory, as for a job with one run.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.frozen_job import FrozenJob
from fsamlab.rundir.killed import record_failure
from fsamlab.rundir.reading import read_status
from fsamlab.storage.reading import Damaged
from fsamlab.sweep.packs import Pack
from fsamlab.sweep.pool import Pool, failure, usable_cores, visible_gpus
from fsamlab.terminal.errors import JobFailed
from fsamlab.terminal.text import counted

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks for signals and ended runs
# SLURM kills all processes of a job within this time, so a pack that is alive so long after the death of one of its
# runs was not killed itself: the run was (out of memory, kill -9).
KILLED_SECONDS = 2.0
ASKS_FOR_RESTART = (128 + signal.SIGUSR2, -signal.SIGUSR2)  # exit codes: a run after its checkpoint; a measurement


class PackRunner:
    """The function that submitit calls for a job with several runs. It has no state, as JobRunner has none."""

    def __call__(self, pack: Pack) -> None:
        """Run all jobs of a pack to their ends.

        Raises:
            JobFailed: some runs failed; SLURM then shows the job as FAILED.
            SystemExit: from submitit's handler, after the request for the restart of the job.
        """
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="[%(asctime)s] %(message)s", force=True)
        jobs, failed = jobs_to_start(pack)
        with signals_kept() as (pending, previous):
            work = _Work(pack, jobs, pending)
            failed += work.until_end()
            if work.unfinished and not work.stopping:
                work.restart(previous[signal.SIGUSR2])
        failed += work.unfinished
        if failed:
            names = ", ".join(name_of(job) for job in failed)
            raise JobFailed(f"{len(failed)} of {len(pack.jobs)} runs of this job did not finish: {names}")

    def checkpoint(self, pack: Pack) -> Any:
        """Return the job that submitit submits again: the same pack, of which the restart runs what is left."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, pack)


def jobs_to_start(pack: Pack) -> tuple[list[FrozenJob], list[FrozenJob]]:
    """Return the jobs to start now, and those that have failed in an earlier start of this SLURM job.

    A restart starts only what SLURM has interrupted. A run that failed stays failed, as a job with one run does. A run
    that another job or process has written to since the submission is left to that process: `fsamlab resubmit` starts
    a failed run again while the other runs of its job go on.
    """
    todo, failed = [], []
    for job in pack.jobs:
        try:
            status = read_status(job.directory) if job.trains else {}
        except Damaged:  # the run itself says what is wrong
            status = {}
        ours = status.get("slurm_job_id") == slurm_job_id()
        if not int(os.environ.get("SLURM_RESTART_COUNT", 0)) or "updated" not in status:
            todo.append(job)
        elif ours and status["status"] == "failed":
            log.info("%s failed in an earlier start of this job, and is not run again", name_of(job))
            failed.append(job)
        elif ours and status["status"] == "finished":
            log.info("%s has finished", name_of(job))
        elif not ours and status["updated"] > pack.submitted:
            where = f"job {status['slurm_job_id']}" if status.get("slurm_job_id") else "a process outside of SLURM"
            log.info("%s has been taken over by %s", name_of(job), where)
        else:
            todo.append(job)
    return todo, failed


def name_of(job: FrozenJob) -> str:
    """Return the name of a run, or `RUN/measurements` of a measurement."""
    return job.directory.name if job.trains else f"{job.directory.parent.name}/{job.directory.name}"


def threads_per_run(runs_per_job: int) -> int:
    """Return the number of threads of each run of this job."""
    return max(1, int(os.environ.get("SLURM_CPUS_PER_TASK", usable_cores())) // runs_per_job)


class _Work:
    """The runs of a job, from their start to the end of the job.

    Attributes:
        unfinished: the runs that have left after a checkpoint, or did not leave in time.
        stopping: whether the job was asked to end without a restart.
    """

    def __init__(self, pack: Pack, jobs: list[FrozenJob], pending: list[int]) -> None:
        self.pack, self.jobs, self.pending = pack, jobs, pending
        threads, gpus = threads_per_run(pack.runs_per_job), visible_gpus()
        self.pool = Pool(jobs, max(1, len(jobs)), threads, gpus, hold=True)
        self.unfinished: list[FrozenJob] = []
        self.stopping = False
        self._ending = False  # SLURM has announced the end of the job
        self._failed: list[FrozenJob] = []
        self._killed: dict[int, tuple[float, str]] = {}  # number of a run -> when the run counts as failed, and why
        self._deadline: float | None = None
        where = f", on GPU {' '.join(gpus)}" if gpus else ""
        log.info("%s in this job, %s each%s", counted(len(jobs), "run"), counted(threads, "thread"), where)

    def until_end(self) -> list[FrozenJob]:
        """Start all runs, and wait until each has ended or has had its time to leave; return the failed runs."""
        try:
            for index in self.pool.start():
                gpu = self.pool.gpu_of(index)
                log.info("%s started%s", self.jobs[index].directory, f" on GPU {gpu}" if gpu else "")
            while self.pool.running or self._killed:
                for index, exitcode in self.pool.ended(LOOK_SECONDS):
                    self._ended(index, exitcode)
                while self.pending:
                    self._act(self.pending.pop(0))
                for index in [i for i, (when, _) in self._killed.items() if time.monotonic() > when]:
                    self._fail(index, self._killed.pop(index)[1])
                if self._deadline is not None and time.monotonic() > self._deadline:
                    break
        except BaseException:
            self.pool.send(signal.SIGKILL)
            raise
        for index, (_, why) in self._killed.items():
            self._fail(index, why)
        late = [self.jobs[index] for index in self.pool.running]
        for job in late:
            log.warning("%s has not left in time; it continues from its last checkpoint", name_of(job))
        self.unfinished += late
        return self._failed

    def restart(self, handler: Any) -> None:
        """Ask SLURM to start the job again, through the handler that submitit has set for its signal.

        Raises:
            SystemExit: the job will be started again.
            Exception: the job will not: it has reached its time limit too often, or SLURM refused.
        """
        log.info("%s continue after the restart of the job", counted(len(self.unfinished), "run"))
        try:
            if not callable(handler):
                raise RuntimeError("this process has no handler of submitit that starts the job again")
            handler(signal.SIGUSR2, None)
        except Exception as e:
            if isinstance(e, subprocess.CalledProcessError) and e.returncode == -signal.SIGTERM:
                # SLURM ends all processes of a job that it requeues, and scontrol is one of them: SLURM has heard.
                sys.exit(-1)
            self._end_all(f"{type(e).__name__}: {e}")
            raise

    def _ended(self, index: int, exitcode: int) -> None:
        job, why = self.jobs[index], failure(exitcode)
        if why is None:
            log.info("%s finished", name_of(job))
        elif exitcode in ASKS_FOR_RESTART and not self.stopping:
            log.info("%s has left after its checkpoint", name_of(job))
            self.unfinished.append(job)
            # The signal may have reached this run alone, but a job restarts as a whole.
            self._ask_to_leave(signal.SIGUSR2)
        elif self.stopping:
            log.info("%s has stopped", name_of(job))
            self.unfinished.append(job)
        elif exitcode < 0:
            self._killed[index] = (time.monotonic() + KILLED_SECONDS, f"{why} (out of memory?)")
        elif exitcode > 128:
            self._fail(index, f"stopped by {signal.Signals(exitcode - 128).name}")
        else:
            self._fail(index, why)

    def _fail(self, index: int, why: str) -> None:
        job = self.jobs[index]
        log.error("%s failed: %s", name_of(job), why)
        self._failed.append(job)
        by_slurm = self._ending and why.startswith("killed")  # as all that is left of a job that SLURM ends
        if job.trains and not by_slurm:
            record_failure(job.directory, why)

    def _act(self, signum: int) -> None:
        """Act on a signal to this process. SLURM sends its signals to the runs too; a second USR2 changes nothing."""
        in_slurm = "SLURM_JOB_ID" in os.environ
        if signum == signal.SIGUSR2:
            log.warning("SIGUSR2 received: the runs write their checkpoints and leave")
            self._ask_to_leave(signum)
        elif signum == signal.SIGTERM and in_slurm:
            log.warning("SIGTERM received: the runs write their checkpoints and train on")
            self._ending = True
        else:
            self.stopping = True
            log.warning("%s received: the runs write their checkpoints and leave", signal.Signals(signum).name)
            # Not SIGINT, because at a second SIGINT a run leaves at once.
            self._ask_to_leave(signal.SIGUSR2 if in_slurm else signal.SIGTERM)

    def _ask_to_leave(self, signum: int) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self.pack.leave_seconds
            self.pool.send(signum)

    def _end_all(self, why: str) -> None:
        """Record why the unfinished runs do not go on; end those that still train."""
        self.pool.send(signal.SIGKILL)
        while self.pool.running:
            self.pool.ended(LOOK_SECONDS)
        for job in self.unfinished:
            if job.trains:
                record_failure(job.directory, why)


@contextmanager
def signals_kept() -> Iterator[tuple[list[int], dict[int, Any]]]:
    """Keep signals in a list until they are read; yield the list, and the handlers that were set before.

    The earlier handlers come back unless the process exits. A second signal in the time between the request for a
    restart and the end of the process must not ask for a second restart.
    """
    pending: list[int] = []
    kept = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    previous: dict[int, Any] = {s: signal.signal(s, lambda signum, frame: pending.append(signum)) for s in kept}
    try:
        yield pending, previous
    except SystemExit:
        raise
    except BaseException:
        _set(previous)
        raise
    else:
        _set(previous)


def _set(handlers: dict[int, Any]) -> None:
    for signum, handler in handlers.items():
        signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
