"""Plan the jobs of a sweep: compose and check each configuration, and give it a run id and a directory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsamlab.config import Config, to_plain, typed
from fsamlab.config.identity import config_hash, run_id
from fsamlab.rundir.frozen_job import TRAIN, FrozenJob
from fsamlab.terminal.errors import SweepFailed, one_line

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobPlan:
    """One job of a launch.

    Attributes:
        overrides: the words that Hydra composed the configuration from.
        directory: the run directory, absolute.
        run_id, config_hash: identity of the configuration, as composed at launch.
        config: the configuration in plain types.
        until: the epoch after which the run pauses; None means the end of its training.
    """

    overrides: list[str]
    directory: Path
    run_id: str
    config_hash: str
    config: dict[str, Any] = field(repr=False)
    until: int | None = None

    @classmethod
    def of(cls, config: Config, overrides: list[str], directory: Path) -> JobPlan:
        """Plan a composed and checked configuration."""
        return cls(overrides, directory, run_id(config), config_hash(config), to_plain(config))

    def freeze(self, code: dict[str, Any]) -> FrozenJob:
        """Return the job that trains the run; `code` is the version of the code at submission."""
        return FrozenJob(TRAIN, self.config, self.overrides, self.directory, code, self.until)


def compose_job(loader: ConfigLoader, master: DictConfig, overrides: list[str]) -> JobPlan:
    """Compose and check one job of a sweep.

    Raises:
        ConfigError, Hydra's and OmegaConf's errors: the configuration cannot be used.
    """
    cfg = loader.load_sweep_config(master, list(overrides))
    return JobPlan.of(typed(cfg), list(overrides), Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir)


def compose_all(
    loader: ConfigLoader,
    master: DictConfig,
    jobs: list[list[str]],
    on_first: Callable[[JobPlan], None] | None = None,
) -> list[JobPlan]:
    """Compose and check every job of a sweep; two jobs that are the same run become one.

    Args:
        loader, master, jobs: Hydra's loader, the configuration of the sweep, and the words of each job.
        on_first: called with the first job that can be used, before the jobs after it are composed.

    Raises:
        SweepFailed: some jobs cannot be used; each distinct reason is logged.
    """
    plans: dict[Path, JobPlan] = {}
    problems: dict[str, str] = {}
    for overrides in jobs:
        try:
            plan = compose_job(loader, master, overrides)
        except Exception as e:
            line = one_line(e)
            if line is None:
                raise
            problems.setdefault(line, " ".join(overrides))
            continue
        if plan.directory in plans:
            same = " ".join(plans[plan.directory].overrides)
            log.warning("%s is the same run as %s; it runs once", " ".join(overrides), same)
        if not plans and on_first is not None:
            on_first(plan)
        plans.setdefault(plan.directory, plan)
    if problems:
        *others, last = [f"{line} (job: {job})" for line, job in problems.items()]
        for line in others:
            log.error("error: %s", line)
        raise SweepFailed(f"{last}; no job was started")
    return list(plans.values())
