"""The sweeper of `hydra/sweeper=tune`: a study of trials over the frozen jobs of a sweep, continued after any end.

In each round the study (study.py) says which trials are due (halving.py), the launcher trains their runs until the
epoch that they are to reach (launching.py), and the validation metric of the runs goes into the record (record.py).
The rounds end when nothing is due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from fsamlab.checks import ConfigError
from fsamlab.sweep.launcher import checked
from fsamlab.sweep.plan import JobPlan, compose_job
from fsamlab.sweep.runs import sweep_runs
from fsamlab.sweep.tuning.launching import Detached, Runner
from fsamlab.sweep.tuning.methods import asked_study, methods_of
from fsamlab.sweep.tuning.presence import alone
from fsamlab.sweep.tuning.record import read_study, same_study
from fsamlab.sweep.tuning.settings import Settings
from fsamlab.sweep.tuning.study import Work
from fsamlab.terminal.errors import SweepFailed
from fsamlab.terminal.text import project_relative

log = logging.getLogger(__name__)


class TuneSweeper(BasicSweeper):
    """Searches the settings of each method, and trains the trials with the launcher of the sweep."""

    def __init__(self, max_batch_size: int | None = None, params: Any = None, **settings: Any) -> None:
        super().__init__(max_batch_size, params)  # the settings are read from the composed configuration

    def plan(self, arguments: list[str], on_first: Callable[[JobPlan], None] | None = None) -> list[JobPlan]:
        """Return the jobs of the next round, for `fsamlab check`; nothing is written."""
        work = self._begun(arguments)
        plans = work.plans(work.next())
        checked(self.launcher).check_number(len(plans))
        return plans

    def sweep(self, arguments: list[str]) -> None:
        """Run the study to its end, or to the end of what the launcher waits for."""
        assert self.config is not None
        work = self._begun(arguments, checked(self.launcher).prepare)
        with alone(work.sweep_dir):
            work.say_begin()
            try:
                while trials := work.next():
                    work.round(trials)
            except Detached:
                where = project_relative(work.sweep_dir)
                log.info("give the same command again when these runs have ended; fsamlab status %s", where)
                return
        from fsamlab.sweep.tuning.view import print_study

        print_study(work.study, work.sweep_dir)
        empty = [name for name, group in zip(work.study.names(), work.study.groups) if group.best is None]
        if empty:
            raise SweepFailed(f"no trial of {', '.join(empty)} has ended well; fsamlab status shows the reasons")

    def _begun(self, arguments: list[str], prepare: Callable[[], None] = lambda: None) -> Work:
        """Return the study that the command asks for: the recorded one, or a new one."""
        assert self.config is not None
        assert self.hydra_context is not None
        if self.config.force:
            allowed = "a study does not start over; give a new study another name=..."
            raise ConfigError("force", True, allowed)
        settings = Settings.of(self.config.hydra.sweeper)
        sweep_dir = Path(self.config.hydra.sweep.dir)
        loader, master = self.hydra_context.config_loader, self.config
        methods = methods_of(loader, master, arguments)
        prepare()
        study, old = asked_study(methods, settings), read_study(sweep_dir)
        if old is not None:
            study = same_study(old, study, sweep_dir)
        elif sweep_dir.exists() and sweep_runs(sweep_dir):
            allowed = f"{project_relative(sweep_dir)} has runs of another sweep; give the study a name of its own"
            raise ConfigError("name", master.name, allowed)
        runner = Runner(checked(self.launcher), sweep_dir, list(master.hydra.overrides.hydra))
        return Work(study, settings, methods, runner, lambda words: compose_job(loader, master, words))
