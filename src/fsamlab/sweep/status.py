"""The state of a sweep, from its launch records, its run directories and the scheduler; no launcher has to live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsamlab.rundir.find import check_exist, current_status, no_runs
from fsamlab.sweep.cluster import Answer, ask
from fsamlab.sweep.run_state import RunState, jobs_of, judge
from fsamlab.sweep.runs import SweepRun, sweep_runs

BAD = ("failed", "cancelled", "lost", "damaged")  # these statuses make the exit code 1


@dataclass(frozen=True)
class SweepState:
    """The state of a sweep.

    Attributes:
        runs: all runs, in the order of the records.
        jobs: the scheduler's answers; `jobs.problem` says why it could not be asked.
        damage: a line for each launch record that cannot be read.
    """

    runs: list[RunState]
    jobs: Answer
    damage: list[str]

    @property
    def bad(self) -> list[RunState]:
        """The failed, cancelled, lost and damaged runs."""
        return [r for r in self.runs if r.status in BAD]

    @property
    def exit_code(self) -> int:
        """1 if the user has something to do, else 0."""
        return 1 if self.bad or self.damage else 0


def sweep_state(paths: Sequence[Path]) -> SweepState:
    """Read the state of every run at or below `paths`, and ask the scheduler about runs that have not finished.

    Raises:
        ConfigError: a path does not exist, or there are no runs.
    """
    check_exist(paths)
    damage: list[str] = []
    runs = list({run.directory: run for path in paths for run in sweep_runs(path, damage)}.values())
    if not runs and not damage:
        raise no_runs(paths, "no run directory or launch record there")
    return SweepState(*states_of(runs), list(dict.fromkeys(damage)))


def states_of(runs: Sequence[SweepRun]) -> tuple[list[RunState], Answer]:
    """Return the states of runs, and the scheduler's answers about the jobs of unfinished runs."""
    disks = {run.directory: current_status(run.directory) for run in runs}
    refs = {run.directory: jobs_of(run, disks[run.directory]) for run in runs}
    unfinished = [run.directory for run in runs if disks[run.directory]["status"] != "finished"]
    jobs = ask(ref for d in unfinished for ref, _ in refs[d])
    # read again: since the first reading a run may have finished, and its job left the queue
    disks.update({d: current_status(d) for d in unfinished if refs[d]})
    return [judge(run, disks[run.directory], refs[run.directory], jobs) for run in runs], jobs
