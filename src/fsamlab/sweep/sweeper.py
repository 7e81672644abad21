"""The sweeper: Hydra's grids, but every job is checked before the first job starts, and no job runs twice."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from fsamlab.config.compose import jobs_of
from fsamlab.rundir.reading import is_finished
from fsamlab.sweep.launcher import checked
from fsamlab.sweep.plan import JobPlan, compose_all
from fsamlab.sweep.submit import choose, say_what_changed, start, sweep_lock

log = logging.getLogger(__name__)


class CheckedSweeper(BasicSweeper):
    """Composes and checks all jobs, records the launch, starts the jobs that are not finished, prints the table."""

    def __init__(self, max_batch_size: int | None, params: Any = None, grids: Any = None, along: Any = None) -> None:
        super().__init__(max_batch_size, params)  # all but the first are read from the composed configuration

    def plan(self, arguments: list[str], on_first: Callable[[JobPlan], None] | None = None) -> list[JobPlan]:
        """Return the checked jobs that `arguments` and the sweep file ask for (the command line wins).

        Args:
            arguments: the words of the command line.
            on_first: called with the first job, before the others are composed.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        plans = compose_all(loader, self.config, jobs_of(loader, self.config.hydra.sweeper, arguments), on_first)
        checked(self.launcher).check_number(len(plans))
        return plans

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid."""
        assert self.config is not None
        launcher = checked(self.launcher)

        def begin(first: JobPlan) -> None:
            if not (first.directory / "summary.json").exists():  # a sweep that is repeated may have no run to start
                launcher.prepare()

        plans = self.plan(arguments, begin)
        from fsamlab.results.summary import print_sweep  # pandas: while the launcher prepares

        sweep_dir = Path(self.config.hydra.sweep.dir)
        log.info("%d runs below %s", len(plans), sweep_dir)
        say_what_changed(sweep_dir, plans)
        closed = sweep_dir.exists() and not os.access(sweep_dir, os.W_OK)
        if closed and not self.config.force and all(is_finished(plan.directory) for plan in plans):
            log.info("all runs are finished already (read-only)")  # an archive: nothing to start, nothing to record
            return []
        with sweep_lock(sweep_dir) as lock:
            start(
                launcher,
                sweep_dir,
                choose(sweep_dir, plans, bool(self.config.force)),
                lock,
                argv=sys.argv,
                hydra_overrides=list(self.config.hydra.overrides.hydra),
                on_end=lambda ended: print_sweep(sweep_dir, [plan.directory for plan in ended]),
            )
