"""How the runs of a launch are divided into SLURM jobs of several runs each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fsamlab.rundir.frozen_job import FrozenJob
from fsamlab.rundir.record import now
from fsamlab.terminal.text import counted


@dataclass(frozen=True)
class Pack:
    """The runs of one SLURM job.

    Attributes:
        jobs: the runs (or measurements).
        runs_per_job: into how many shares the cores of the job are divided. A job with fewer runs has the same shares:
            a resumed run needs the number of threads that it began with.
        submitted: the time of the submission, as in status.json.
        leave_seconds: how long the runs may take to write their checkpoints before the job asks for its restart.
    """

    jobs: tuple[FrozenJob, ...]
    runs_per_job: int
    submitted: str
    leave_seconds: float


def packs_of(jobs: Sequence[FrozenJob], runs_per_job: int, signal_delay_s: float) -> list[Pack]:
    """Divide jobs, in their order, into packs of `runs_per_job`; the last pack may be smaller.

    Args:
        jobs: the jobs.
        runs_per_job: the setting of the launcher.
        signal_delay_s: how long before the time limit SLURM sends its signal. A quarter of it is left for the restart.
    """
    leave, submitted = max(1.0, 0.75 * signal_delay_s), now()
    starts = range(0, len(jobs), runs_per_job)
    return [Pack(tuple(jobs[i : i + runs_per_job]), runs_per_job, submitted, leave) for i in starts]


def in_jobs(number: int, runs_per_job: int) -> str:
    """Return in how many jobs so many runs are: `3 jobs of at most 4 runs`."""
    most = "at most " if number % runs_per_job else ""
    return f"{counted(-(-number // runs_per_job), 'job')} of {most}{counted(runs_per_job, 'run')}"


def shares(runs_per_job: int, cpus: int) -> str:
    """Return what each run of a job gets of its cores, and a warning where the job has fewer cores than runs."""
    line = f"each run has {counted(max(1, cpus // runs_per_job), 'thread')}"
    few = f"; {runs_per_job} runs share {counted(cpus, 'CPU')}: raise hydra.launcher.cpus_per_task"
    return line + (few if cpus < runs_per_job else "")
