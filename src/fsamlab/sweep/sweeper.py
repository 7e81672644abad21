"""The sweeper: Hydra's grid, but every job is checked before the first one starts, and none runs twice."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from fsamlab.config import typed
from fsamlab.door import SweepFailed, one_line
from fsamlab.identity import PROJECT_ROOT
from fsamlab.sweep.local import LocalLauncher
from fsamlab.sweep.plan import JobPlan, write_launch

log = logging.getLogger(__name__)


class CheckedSweeper(BasicSweeper):
    """Composes and checks all jobs, writes the launch's record, starts what is not finished, prints the table."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid of `arguments` and of the sweep file's parameters (the command line wins)."""
        from fsamlab.sweep.summary import print_sweep

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        jobs = [job for batch in self.split_arguments(overrides, None) for job in batch]
        plans = self._check(jobs)
        sweep_dir = Path(self.config.hydra.sweep.dir)
        force = bool(self.config.force)
        todo = [p for p in plans if force or not p.finished]
        log.info("%d runs below %s", len(plans), sweep_dir)
        if len(todo) < len(plans):
            log.info(
                "%d of them are finished already and are not run again (force=true would)",
                len(plans) - len(todo),
            )
        write_launch(sweep_dir, plans, sys.argv, PROJECT_ROOT)
        returns: Sequence[Any] = []
        try:
            if todo:
                if isinstance(self.launcher, LocalLauncher):
                    self.launcher.directories = [p.directory for p in todo]
                returns = self.launcher.launch([p.overrides for p in todo], initial_job_idx=0)
        finally:
            num_failed = print_sweep(sweep_dir, plans)
        if num_failed:
            raise SweepFailed(
                f"{num_failed} of {len(plans)} runs did not finish; the same command runs only those again"
            )
        return returns

    def _check(self, jobs: list[list[str]]) -> list[JobPlan]:
        assert self.config is not None
        assert self.hydra_context is not None
        plans: dict[Path, JobPlan] = {}
        problems: dict[str, str] = {}
        for overrides in jobs:
            try:
                cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                plan = JobPlan.of(typed(cfg), list(overrides), Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir)
            except Exception as e:
                line = one_line(e)
                if line is None:
                    raise
                problems.setdefault(line, " ".join(overrides))
                continue
            if plan.directory in plans:
                log.warning(
                    "%s is the same run as %s; it runs once",
                    " ".join(overrides),
                    " ".join(plans[plan.directory].overrides),
                )
            plans.setdefault(plan.directory, plan)
        if problems:
            *others, last = [f"{line} (job: {job})" for line, job in problems.items()]
            for line in others:
                log.error("error: %s", line)
            raise SweepFailed(f"{last}; no job was started")
        return list(plans.values())
