"""Wait for submitted jobs: read the run directories and ask the scheduler until every job has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fsamlab.rundir.find import current_status
from fsamlab.rundir.frozen_job import FrozenJob
from fsamlab.sweep.launcher import names_on_board

QUIET_POLLS = 2  # a job that is not active in so many polls in a row has ended; SLURM may forget a job for one poll


def wait_for(
    jobs: Sequence[FrozenJob],
    active: Callable[[set[int]], set[int]],
    since: str,
    poll_seconds: float,
    *,
    shared: bool = False,
) -> list[str | None]:
    """Wait until all jobs have ended, and show the progress of each job.

    The scheduler alone does not tell how a job ended, and a run that has finished needs no more waiting, even if the
    scheduler still shows its job. So both are asked. A job whose run has failed is waited for: until the job has ended,
    no launch can start the run again.

    Args:
        jobs: the submitted jobs.
        active: takes numbers of jobs, and returns the numbers of the jobs that may still write files.
        since: the time of the submission; an older status of a run is from an earlier attempt.
        poll_seconds: time between two checks.
        shared: whether a job of SLURM holds several of `jobs`: it goes on for the others when one has failed.

    Returns:
        For each job why it failed, None if the run finished, or paused as planned.
    """
    from fsamlab.terminal.board import SweepBoard  # on demand: only a launcher that waits needs rich's bars

    directories = {i: job.directory for i, job in enumerate(jobs)}
    names = names_on_board(jobs)
    board = SweepBoard(directories, dict(enumerate(names)))
    running, quiet = set(directories), dict.fromkeys(directories, 0)
    failures: list[str | None] = [None] * len(jobs)
    with board:
        while running:
            still_active = active(running)
            for i in sorted(running):
                status = current_status(directories[i])
                quiet[i] = 0 if i in still_active else quiet[i] + 1
                of_now = status.get("updated", "") >= since
                finished = of_now and status["status"] in ("finished", "paused")
                failed = shared and of_now and status["status"] == "failed"
                over = finished or failed or quiet[i] >= QUIET_POLLS
                if i not in board.tasks and (over or (of_now and status["status"] == "running")):
                    board.started(i)
                if over:
                    running.remove(i)
                    board.ended(i, 0 if finished else 1)
                    failures[i] = None if finished else f"{names[i]} did not finish"
            board.refresh(i for i in running if i in board.tasks)
            if running:
                time.sleep(poll_seconds)
    return failures
