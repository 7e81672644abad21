"""A tuning study at work: the rounds of trials, and what is taken down of each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fsamlab.checks import ConfigError
from fsamlab.metrics import higher_is_better, of
from fsamlab.rundir.objective import Objective, objective_until
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.tuning.halving import due
from fsamlab.sweep.tuning.launching import Failure, until_of
from fsamlab.sweep.tuning.methods import Method
from fsamlab.sweep.tuning.record import FAILED, FINISHED, PAUSED, Group, Study, Trial
from fsamlab.sweep.tuning.sampling import proposed
from fsamlab.sweep.tuning.settings import Settings
from fsamlab.terminal.errors import SweepFailed, one_line
from fsamlab.terminal.text import counted, project_relative

log = logging.getLogger(__name__)

TRIES = 2  # a trial whose runs have failed so often is a failed one; a training that diverged is not repeated


class Trains(Protocol):
    """Trains the runs of a study: :class:`fsamlab.sweep.tuning.launching.Runner`."""

    @property
    def sweep_dir(self) -> Path:
        """The directory of the sweep."""

    def train(self, plans: list[JobPlan]) -> dict[Path, Failure]:
        """Train runs until the epoch of their plans; return those that did not reach it."""


class Work:
    """A study at work.

    Args:
        study: its record.
        settings: how the study searches.
        methods: one for each group of the study.
        runner: trains runs.
        compose: makes the plan of a run from words.
    """

    def __init__(
        self,
        study: Study,
        settings: Settings,
        methods: list[Method],
        runner: Trains,
        compose: Callable[[list[str]], JobPlan],
    ) -> None:
        self.study, self.settings, self.runner, self.compose = study, settings, runner, compose
        self.methods = list(zip(study.groups, methods))
        self.sweep_dir = runner.sweep_dir

    def say_begin(self) -> None:
        """Log what the study has and will do."""
        known = sum(len(group.trials) for group in self.study.groups)
        total = sum(group.size for group in self.study.groups)
        begun = f"; {known} of them are on record" if known else ""
        where = project_relative(self.sweep_dir)
        log.info("tuning %s below %s: %s%s", ", ".join(self.study.names()), where, counted(total, "trial"), begun)

    def next(self) -> list[tuple[Group, Method, Trial]]:
        """Return the trials that are due, of all groups."""
        found = []
        for group, method in self.methods:

            def propose(group: Group, number: int, method: Method = method) -> Trial:
                return proposed(method.space, group, number, self.settings.sampler, self.settings.sampler_seed)

            for trial in due(group, self.settings.parallel, self.settings.factor, propose):
                found.append((group, method, trial))
        return found

    def plans(self, trials: list[tuple[Group, Method, Trial]]) -> list[JobPlan]:
        """Return the runs of trials, each until the epoch of its rung; a setting that cannot be used fails its trial.

        Raises:
            SweepFailed: conf/ has changed, so that a trial would have other runs than before.
        """
        plans: dict[Path, JobPlan] = {}
        for group, method, trial in trials:
            try:
                of_trial = [self.compose(words) for words in method.jobs(trial.params)]
            except Exception as e:
                line = one_line(e)
                if line is None:
                    raise
                trial.state, trial.reason = FAILED, line
                continue
            runs = [plan.directory.name for plan in of_trial]
            if trial.runs and trial.runs != runs:
                raise SweepFailed(
                    f"trial {trial.number} would be {runs[0]} now, and was {trial.runs[0]}: conf/ has changed since; "
                    "restore it, or give a new study another name=..."
                )
            trial.runs = runs
            until = group.epochs[trial.rung]
            for plan in of_trial:
                plan, other = until_of(plan, until, group.epochs[-1]), plans.get(plan.directory)
                if other is None or (other.until is not None and (plan.until is None or plan.until > other.until)):
                    plans[plan.directory] = plan  # two trials may have one setting: the longer training counts
        return list(plans.values())

    def round(self, trials: list[tuple[Group, Method, Trial]]) -> None:
        """Train the trials that are due, and take down what came out.

        Raises:
            Detached: the launcher does not wait.
            SweepFailed: all runs of the round failed, so that the reason may lie outside of them.
        """
        plans = self.plans(trials)
        self.sweep_dir.mkdir(parents=True, exist_ok=True)
        self.study.write(self.sweep_dir)  # before the first run starts: what was asked is asked again after a kill
        failures = self.runner.train(plans)
        again = [trial for group, _, trial in trials if trial.state != FAILED and self._take(group, trial, failures)]
        self.study.write(self.sweep_dir)
        if plans and len(failures) == len(plans) and again:
            first = next(iter(failures.values()))
            raise SweepFailed(
                f"all {counted(len(plans), 'run')} of this round failed ({first.status}: {first.reason}); "
                "the same command tries them again and continues the study"
            )

    def _take(self, group: Group, trial: Trial, failures: dict[Path, Failure]) -> bool:
        """Take down how a trial ended; return whether it is to be tried again."""
        failed = [failures[path] for name in trial.runs if (path := self.sweep_dir / name) in failures]
        until = group.epochs[trial.rung] if trial.rung < len(group.epochs) - 1 else None
        if failed:
            trial.tries += 1
            final = any(one.diverged for one in failed) or trial.tries >= TRIES
            trial.reason = f"{failed[0].status}: {failed[0].reason}"
            if not final:
                log.warning("trial %d is tried once more: %s", trial.number, trial.reason)
                return True
            trial.state = FAILED
            log.warning("trial %d has failed: %s", trial.number, trial.reason)
            return False
        found = [objective_until(self.sweep_dir / name, until, group.objective) for name in trial.runs]
        values = [one.value for one in found if one.value is not None and math.isfinite(one.value)]
        if len(values) < len(found):
            trial.state, trial.reason = FAILED, f"{found[0].column} is {found[0].value}"
            return False
        self._learn(group, found[0])
        trial.of_seeds.append(values)
        trial.values.append(math.fsum(values) / len(values))
        trial.state = FINISHED if until is None else PAUSED
        trial.reason = None
        return False

    def _learn(self, group: Group, found: Objective) -> None:
        """Take down which metric judges the group, which the first run tells."""
        key, declared = found.column.partition("/")[2], (found.headline,)
        if of(key, declared).better is None:
            raise ConfigError("objective", key, "has no better direction: choose another metric")
        group.metric = found.column
        group.higher_is_better, group.percent = higher_is_better(key, declared), of(key, declared).percent
