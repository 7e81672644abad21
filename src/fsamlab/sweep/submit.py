"""Plans -> jobs: which of them run, their record, the launcher, the table at the end.

The sweep command, `fsamlab resubmit` and `fsamlab check` share it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from fsamlab.config import ConfigError, typed
from fsamlab.door import SweepFailed, one_line
from fsamlab.environment import code_version
from fsamlab.identity import PROJECT_ROOT
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


def choose(sweep_dir: Path, plans: Sequence[JobPlan], force: bool) -> list[JobPlan]:
    """Return what is to be started: neither finished nor in the queue; say how many are."""
    queued = in_the_queue(sweep_dir)
    todo = [p for p in plans if p.directory not in queued and (force or not p.finished)]
    finished = sum(p.finished for p in plans) if not force else 0
    if finished:
        log.info("%d of them are finished already and are not run again (force=true would)", finished)
    waiting = len(plans) - len(todo) - finished
    if waiting:
        log.info("%d of them are in SLURM's queue or running already", waiting)
    return todo


def start(
    launcher: Any,
    sweep_dir: Path,
    plans: list[JobPlan],
    todo: list[JobPlan],
    *,
    argv: list[str],
    hydra_overrides: list[str],
    on_end: Callable[[], int],
) -> Sequence[Any]:
    """Record the launch, start `todo`, print the end.

    Raises:
        SweepFailed: some of `plans` did not finish.
    """
    code = code_version(PROJECT_ROOT)
    name = "local" if isinstance(launcher, LocalLauncher) else getattr(launcher, "cluster", type(launcher).__name__)
    record = write_launch(sweep_dir, plans, argv, PROJECT_ROOT, code, name, hydra_overrides)
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
        num_failed = 0 if refused or getattr(launcher, "detached", False) else on_end()
    if num_failed:
        raise SweepFailed(f"{num_failed} of {len(plans)} runs did not finish; the same command runs only those again")
    return returns
