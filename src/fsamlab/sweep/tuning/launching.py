"""Trains the runs of a study until the epochs that their trials are to reach, over the launcher of the sweep."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fsamlab.rundir.objective import reached
from fsamlab.sweep.launcher import JobLauncher
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.run_state import RunState
from fsamlab.sweep.runs import sweep_runs
from fsamlab.sweep.status import states_of
from fsamlab.sweep.submit import choose, launch, sweep_lock

log = logging.getLogger(__name__)

DIVERGED = "Diverged:"  # begins the words of status.json when a training has diverged
POLL_SECONDS = 2.0  # between two looks at runs that an earlier launch has started


@dataclass(frozen=True)
class Failure:
    """A run that did not reach its epoch.

    Attributes:
        status: as `fsamlab status` names it.
        reason: why, in one line.
        diverged: whether the training diverged: the same training would do so again.
    """

    status: str
    reason: str
    diverged: bool = False


class Detached(Exception):
    """The launcher has submitted the runs and does not wait for them."""


@dataclass(frozen=True)
class Runner:
    """Starts runs with the launcher of the sweep, and waits for them.

    Attributes:
        launcher: starts the jobs.
        sweep_dir: the directory of the sweep.
        hydra_overrides: for the record of each launch.
    """

    launcher: JobLauncher
    sweep_dir: Path
    hydra_overrides: list[str]

    def train(self, plans: Sequence[JobPlan]) -> dict[Path, Failure]:
        """Train runs until the epoch of their plans; runs that are there already need nothing.

        A run is started once. A run that a job of an earlier launch trains is waited for first, since two jobs cannot
        train one run.

        Returns:
            The runs that did not reach their epoch.

        Raises:
            Detached: the launcher does not wait.
        """
        started: set[Path] = set()
        while True:
            left = [plan for plan in plans if not reached(plan.directory, plan.until)]
            if not left:
                return {}
            busy = {state.run.directory.name for state in self._states(left) if state.busy}
            todo = [plan for plan in left if plan.directory.name not in busy and plan.directory not in started]
            if todo:
                started.update(plan.directory for plan in todo)
                self._start(todo)
            elif busy:
                time.sleep(POLL_SECONDS)
            else:
                return self._failures(left)

    def _start(self, plans: list[JobPlan]) -> None:
        with sweep_lock(self.sweep_dir) as lock:
            choice = choose(self.sweep_dir, plans, force=None)
            if choice.todo:
                launch(self.launcher, self.sweep_dir, choice, lock, argv=sys.argv, hydra_overrides=self.hydra_overrides)
        if self.launcher.detached:
            raise Detached

    def _states(self, plans: Sequence[JobPlan]) -> list[RunState]:
        names = {plan.directory.name for plan in plans}
        return states_of([run for run in sweep_runs(self.sweep_dir) if run.directory.name in names])[0]

    def _failures(self, plans: Sequence[JobPlan]) -> dict[Path, Failure]:
        states = {state.run.directory.name: state for state in self._states(plans)}
        found = {}
        for plan in plans:
            state = states.get(plan.directory.name)
            word, reason = (state.shown, state.reason) if state is not None else ("not begun", None)
            own = str(state.disk.get("exception")) if state is not None else ""
            diverged = word == "failed" and own.startswith(DIVERGED)
            found[plan.directory] = Failure(word, reason or "ended without giving a reason; see its run.log", diverged)
        return found


def until_of(plan: JobPlan, until: int, last: int) -> JobPlan:
    """Return the plan of a run that is to pause after `until` epochs; after the last epoch nothing pauses."""
    return replace(plan, until=until if until < last else None)
