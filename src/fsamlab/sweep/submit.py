"""Plans -> jobs: which of them run, their record, the launcher, the table at the end.

The sweep command, `fsamlab resubmit` and `fsamlab check` share it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from omegaconf import DictConfig

from fsamlab.config import ConfigError, from_plain, typed
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir import inputs
from fsamlab.rundir.environment import code_version
from fsamlab.rundir.ownership import Ownership
from fsamlab.storage.locks import locked
from fsamlab.sweep.job import FrozenJob
from fsamlab.sweep.local import LocalLauncher
from fsamlab.sweep.plan import JobPlan, add_job_ids, read_launches, write_launch
from fsamlab.sweep.slurm import SubmititLauncher
from fsamlab.sweep.status import states_of, sweep_runs
from fsamlab.terminal.errors import SweepFailed, one_line
from fsamlab.terminal.text import project_relative

log = logging.getLogger(__name__)

LOCK_SECONDS = 600.0  # for submitting some thousand jobs to a slow controller


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
    before: dict[tuple[str, ...], tuple[str, int]] = {}
    for launch in read_launches(sweep_dir):
        for job in launch.jobs:
            before[tuple(job.overrides)] = (job.run_id, launch.number)
    lines = []
    for plan in plans:
        old, number = before.get(tuple(plan.overrides), (plan.run_id, 0))
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


@contextmanager
def sweep_lock(sweep_dir: Path) -> Iterator[ExitStack]:
    """Hold the lock under which the runs of a sweep are chosen and given to their launcher; `close()` lets go early.

    Two launches at once would choose the same runs, since neither has them in its record yet.

    Raises:
        SweepFailed: another launch has held it for long.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    waiting = Timer(2.0, log.warning, ("another launch of %s chooses its runs; waiting for it", sweep_dir))
    waiting.daemon = True
    waiting.start()
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(sweep_dir / ".launch.lock", LOCK_SECONDS))
        except TimeoutError as e:
            raise SweepFailed(f"another launch has held {sweep_dir}/.launch.lock for {LOCK_SECONDS:g} s") from e
        finally:
            waiting.cancel()
        yield lock


@dataclass(frozen=True)
class Choice:
    """What of a sweep is to be started.

    Attributes:
        plans: all of it.
        todo: what is to be started now.
        ended: what the table at the end is about: all that no other launch is at work on.
        left_out: a line for each run that the user has to decide about first: a damaged file, or a finished run
            whose data or start weights are others now.
    """

    plans: list[JobPlan]
    todo: list[JobPlan]
    ended: list[JobPlan]
    left_out: list[str]


def choose(sweep_dir: Path, plans: Sequence[JobPlan], force: bool | None) -> Choice:
    """Sort the jobs of a sweep, and say how many need no start; :func:`sweep_lock` is held meanwhile.

    Args:
        sweep_dir: the sweep's directory.
        plans: all its jobs.
        force: whether finished runs start over; None where the command has no such choice.
    """
    damage: list[str] = []
    recorded = {run.directory.name: run for run in sweep_runs(sweep_dir, damage)}
    known = [recorded[plan.directory.name] for plan in plans if plan.directory.name in recorded]
    found, jobs = states_of(known)
    states = {state.run.directory.name: state for state in found}
    for line in damage:
        log.warning("%s; jobs of that launch may still be there", line)
    if jobs.problem:
        log.warning("%s: jobs of an earlier launch may still be there", jobs.problem)
    busy = {name for name, state in states.items() if state.busy}
    left_out = {name: str(state.reason) for name, state in states.items() if state.status == "damaged"}
    finished = {name for name, state in states.items() if state.status == "finished"}
    done = set() if force else finished
    todo = [p for p in plans if p.directory.name not in done | busy | left_out.keys()]
    num_busy = len(busy - done)
    changed: dict[str, str] = {}
    if done:
        skipped = [(p.directory, from_plain(p.config)) for p in plans if p.directory.name in done]
        changed = {d.name: str(error) for d, error in inputs.compare_finished(skipped).items()}
        left_out.update(changed)
        hint = "" if force is None else " (force=true would)"
        log.info("%d of %d runs are finished already and are not run again%s", len(done), len(plans), hint)
    if num_busy:
        words = "%d of %d runs are queued or running already%s: fsamlab status %s"
        where = project_relative(sweep_dir)
        log.info(words, num_busy, len(plans), " and are left to that, force=true or not" if force else "", where)
    for name, line in left_out.items():
        log.error("error: %s is left out: %s", name, line)
    ended = [p for p in plans if p.directory.name not in busy - finished | changed.keys()]
    return Choice(list(plans), todo, ended, list(left_out.values()))


def start(
    launcher: Any,
    sweep_dir: Path,
    choice: Choice,
    lock: ExitStack,
    *,
    argv: list[str],
    hydra_overrides: list[str],
    on_end: Callable[[Sequence[JobPlan]], int],
) -> Sequence[Any]:
    """Write the launch's record and start what is to run.

    Args:
        launcher: Hydra's, set up.
        sweep_dir: the sweep's directory.
        choice: of :func:`choose`.
        lock: the sweep's, held; released as soon as others can see what was started.
        argv, hydra_overrides: for the record.
        on_end: prints the table; returns how many did not finish.

    Raises:
        SweepFailed: some did not finish.
    """
    todo, code = choice.todo, code_version(PROJECT_ROOT)
    name = "local" if isinstance(launcher, LocalLauncher) else getattr(launcher, "cluster", type(launcher).__name__)
    cluster = launcher.cluster_name() if isinstance(launcher, SubmititLauncher) else None
    record = write_launch(sweep_dir, choice.plans, argv, PROJECT_ROOT, code, name, hydra_overrides, cluster)
    returns: Sequence[Any] = []
    refused = False
    presence: Ownership | None = None
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
                launcher.all_submitted = lock.close
            else:  # the queue is in this process: as long as it lives, its runs wait for their turn
                record.launcher_directory.mkdir(exist_ok=True)
                presence = Ownership(record.launcher_directory)
                lock.close()
            returns = launcher.launch([p.overrides for p in todo], initial_job_idx=0)
    except ConfigError:  # nothing was started: no launch, no table
        refused = True
        raise
    finally:
        if presence is not None:
            presence.release()
            shutil.rmtree(record.launcher_directory, ignore_errors=True)
        if refused:
            for path in record.path.parent.glob(f"{record.number}.*"):
                path.unlink()
        silent = refused or getattr(launcher, "detached", False) or not choice.ended
        num_failed = 0 if silent else on_end(choice.ended)
        # a forced run that never began still has its earlier result on disk
        num_failed = max(num_failed, sum(r.status is JobStatus.FAILED for r in returns))
    if num_failed:
        total = len(choice.ended)
        raise SweepFailed(f"{num_failed} of {total} runs did not finish; the same command runs only those again")
    if choice.left_out:
        raise SweepFailed(f"{len(choice.left_out)} of {len(choice.plans)} runs were left out: {choice.left_out[0]}")
    return returns
