"""Plans -> jobs: which of them run, their record, the launcher, the table at the end.

The sweep command, `fsamlab resubmit` and `fsamlab check` share it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from omegaconf import DictConfig

from fsamlab.config import ConfigError, typed
from fsamlab.door import SweepFailed, one_line
from fsamlab.environment import code_version
from fsamlab.project import PROJECT_ROOT
from fsamlab.sweep.cluster import job_states
from fsamlab.sweep.job import FrozenJob
from fsamlab.sweep.local import LocalLauncher
from fsamlab.sweep.plan import JobPlan, add_job_ids, read_launches, write_launch
from fsamlab.sweep.slurm import SubmititLauncher

log = logging.getLogger(__name__)


def compose_all(loader: ConfigLoader, master: DictConfig, jobs: list[list[str]]) -> list[JobPlan]:
    """Compose and check every job; two that are the same run become one.

    Raises:
        SweepFailed: some cannot be used; each distinct reason is logged.
    """
    plans: dict[Path, JobPlan] = {}
    problems: dict[str, str] = {}
    for overrides in jobs:
        try:
            cfg = loader.load_sweep_config(master, list(overrides))
            plan = JobPlan.of(typed(cfg), list(overrides), Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir)
        except Exception as e:
            line = one_line(e)
            if line is None:
                raise
            problems.setdefault(line, " ".join(overrides))
            continue
        if plan.directory in plans:
            same = " ".join(plans[plan.directory].overrides)
            log.warning("%s is the same run as %s; it runs once", " ".join(overrides), same)
        plans.setdefault(plan.directory, plan)
    if problems:
        *others, last = [f"{line} (job: {job})" for line, job in problems.items()]
        for line in others:
            log.error("error: %s", line)
        raise SweepFailed(f"{last}; no job was started")
    return list(plans.values())


def changed_since(sweep_dir: Path, plans: Sequence[JobPlan]) -> list[str]:
    """Return a line for each job whose overrides an earlier launch had too, with another configuration."""
    before: dict[tuple[str, ...], tuple[str, str]] = {}
    for launch in read_launches(sweep_dir):
        for job in launch.entry["jobs"]:
            before[tuple(job["overrides"])] = (job["run_id"], launch.path.stem)
    lines = []
    for plan in plans:
        old, number = before.get(tuple(plan.overrides), (plan.run_id, ""))
        if old != plan.run_id:
            lines.append(f"{' '.join(plan.overrides)}: {old} in launch {number}, {plan.run_id} now")
    return lines


def say_what_changed(sweep_dir: Path, plans: Sequence[JobPlan], show: int = 3) -> None:
    """Warn where the same command composes other configurations than at an earlier launch."""
    lines = changed_since(sweep_dir, plans)
    if lines:
        log.warning("conf/ or sweeps/ has changed: %d jobs are other runs than at an earlier launch", len(lines))
        for line in lines[:show]:
            log.warning("  %s", line)
        log.warning("  the earlier ones keep their directories; `fsamlab resubmit` goes on with them as they were")


def in_the_queue(sweep_dir: Path) -> set[Path]:
    """Return the run directories of a sweep whose SLURM jobs wait or run."""
    ids = {
        job["slurm_job_id"]: Path(job["directory"])
        for launch in read_launches(sweep_dir)
        for job in launch.entry["jobs"]
        if job.get("slurm_job_id")
    }
    states = job_states(ids)
    if states.problem:
        log.warning("%s: jobs of an earlier launch may still be there", states.problem)
    return {directory for i, directory in ids.items() if i in states and states[i].active}


@dataclass(frozen=True)
class Choice:
    """What of a sweep is to be started, and what the table at the end is about: all that SLURM has not got already."""

    plans: list[JobPlan]
    todo: list[JobPlan]
    ended: list[JobPlan]


def choose(sweep_dir: Path, plans: Sequence[JobPlan], force: bool) -> Choice:
    """Sort the jobs of a sweep, and say how many need no start."""
    in_queue = in_the_queue(sweep_dir)
    not_finished = [p for p in plans if force or not p.finished]
    todo = [p for p in not_finished if p.directory not in in_queue]
    num_finished, num_queued = len(plans) - len(not_finished), len(not_finished) - len(todo)
    if num_finished:
        log.info("%d of them are finished already and are not run again (force=true would)", num_finished)
    if num_queued:
        log.info("%d of them are in SLURM's queue or running already: fsamlab status %s", num_queued, sweep_dir)
    return Choice(list(plans), todo, [p for p in plans if p.directory not in in_queue or p.finished])


def start(
    launcher: Any,
    sweep_dir: Path,
    choice: Choice,
    *,
    argv: list[str],
    hydra_overrides: list[str],
    on_end: Callable[[list[JobPlan]], int],
) -> Sequence[Any]:
    """Record the launch, start what is to be started, print the end.

    Raises:
        SweepFailed: some did not finish.
    """
    todo, code = choice.todo, code_version(PROJECT_ROOT)
    name = "local" if isinstance(launcher, LocalLauncher) else getattr(launcher, "cluster", type(launcher).__name__)
    record = write_launch(sweep_dir, choice.plans, argv, PROJECT_ROOT, code, name, hydra_overrides)
    returns: Sequence[Any] = []
    refused = False
    try:
        if todo:
            directories = [p.directory for p in todo]
            if isinstance(launcher, LocalLauncher | SubmititLauncher):
                task = "fsamlab.run:run_frozen"
                launcher.jobs = [FrozenJob(task, p.config, p.overrides, p.directory, code) for p in todo]
            if isinstance(launcher, LocalLauncher):
                launcher.directories = directories
            if isinstance(launcher, SubmititLauncher) and launcher.cluster == "slurm":
                launcher.submitted = lambda ids: add_job_ids(record, dict(zip(directories, ids)))
            returns = launcher.launch([p.overrides for p in todo], initial_job_idx=0)
    except ConfigError:  # nothing was started: no launch, no table
        refused = True
        for path in record.parent.glob(f"{record.stem}.*"):
            path.unlink()
        raise
    finally:
        silent = refused or getattr(launcher, "detached", False) or not choice.ended
        num_failed = 0 if silent else on_end(choice.ended)
        # a forced run that never began still has its earlier result on disk
        num_failed = max(num_failed, sum(r.status is JobStatus.FAILED for r in returns))
    if num_failed:
        total = len(choice.ended)
        raise SweepFailed(f"{num_failed} of {total} runs did not finish; the same command runs only those again")
    return returns
