"""From the plans of a sweep to its end: choose which jobs run, record the launch, start the jobs, print the table.

The sweep command, `fsamlab resubmit` and `fsamlab check` share this module.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from fsamlab.config import ConfigError, from_plain
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir import inputs
from fsamlab.rundir.environment import code_version
from fsamlab.rundir.ownership import Ownership
from fsamlab.storage.locks import locked
from fsamlab.sweep.launcher import JobLauncher
from fsamlab.sweep.launches import add_job_ids, read_launches, write_launch
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.runs import sweep_runs
from fsamlab.sweep.status import states_of
from fsamlab.terminal.errors import SweepFailed
from fsamlab.terminal.text import project_relative

log = logging.getLogger(__name__)

LOCK_SECONDS = 600.0  # for submitting some thousand jobs to a slow controller


def changed_since(sweep_dir: Path, plans: Sequence[JobPlan]) -> list[str]:
    """Return a line for each job whose overrides gave another configuration at an earlier launch."""
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
    """Warn if the same command composes other configurations than at an earlier launch."""
    lines = changed_since(sweep_dir, plans)
    if lines:
        log.warning("conf/ or sweeps/ has changed: %d jobs have other run ids than at an earlier launch", len(lines))
        for line in lines[:show]:
            log.warning("  %s", line)
        log.warning("  the earlier runs keep their directories; `fsamlab resubmit` continues them unchanged")


@contextmanager
def sweep_lock(sweep_dir: Path) -> Iterator[ExitStack]:
    """Hold the lock under which a launch chooses runs and gives them to the launcher; `close()` releases it early.

    Without the lock, two launches at the same time would choose the same runs: a run is in the record only after the
    choice.

    Raises:
        SweepFailed: another launch has held the lock for LOCK_SECONDS.
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
    """Which jobs of a sweep to start, and which to list in the final table.

    Attributes:
        plans: all jobs of the sweep.
        todo: the jobs to start now.
        ended: the jobs of the final table: all jobs except the jobs of another launch.
        left_out: a line for each run that the user has to decide about first: a damaged file, or a finished run
            whose data or start weights have changed.
    """

    plans: list[JobPlan]
    todo: list[JobPlan]
    ended: list[JobPlan]
    left_out: list[str]


def choose(sweep_dir: Path, plans: Sequence[JobPlan], force: bool | None) -> Choice:
    """Choose the jobs to start, and say how many jobs need no start. The caller holds :func:`sweep_lock`.

    Args:
        sweep_dir: the directory of the sweep.
        plans: all jobs of the sweep.
        force: whether finished runs start over; None where the command has no such option.
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
        log.info(words, num_busy, len(plans), " and continue, also with force=true" if force else "", where)
    for name, line in left_out.items():
        log.error("error: %s is left out: %s", name, line)
    ended = [p for p in plans if p.directory.name not in busy - finished | changed.keys()]
    return Choice(list(plans), todo, ended, list(left_out.values()))


def start(
    launcher: JobLauncher,
    sweep_dir: Path,
    choice: Choice,
    lock: ExitStack,
    *,
    argv: list[str],
    hydra_overrides: list[str],
    on_end: Callable[[Sequence[JobPlan]], int],
) -> None:
    """Write the record of the launch, start the chosen jobs, and print the table at their end.

    Args:
        launcher, sweep_dir, choice, lock, argv, hydra_overrides: as :func:`launch` takes them.
        on_end: prints the table; returns how many runs did not finish.

    Raises:
        SweepFailed: some runs did not finish, or were left out.
    """
    num_failed, refused = 0, False
    failures: list[str | None] = []
    try:
        failures = launch(launcher, sweep_dir, choice, lock, argv=argv, hydra_overrides=hydra_overrides)
    except ConfigError:  # nothing was started: no launch, no table
        refused = True
        raise
    finally:
        silent = refused or launcher.detached or not choice.ended
        num_failed = 0 if silent else on_end(choice.ended)
        # The files of a forced run that never began still hold its earlier result: the launcher's word counts too.
        num_failed = max(num_failed, sum(failure is not None for failure in failures))
    if num_failed:
        total, repeat = len(choice.ended), "the same command runs the unfinished runs again"
        raise SweepFailed(f"{num_failed} of {total} runs did not finish; {repeat}")
    if choice.left_out:
        raise SweepFailed(f"{len(choice.left_out)} of {len(choice.plans)} runs were left out: {choice.left_out[0]}")


def launch(
    launcher: JobLauncher,
    sweep_dir: Path,
    choice: Choice,
    lock: ExitStack,
    *,
    argv: list[str],
    hydra_overrides: list[str],
) -> list[str | None]:
    """Write the record of the launch and start the chosen jobs.

    Args:
        launcher: starts the jobs.
        sweep_dir: the directory of the sweep.
        choice: from :func:`choose`.
        lock: the lock of the sweep, held; released as soon as other launches can see which jobs were started.
        argv, hydra_overrides: for the record.

    Returns:
        What the launcher returns: for each started job why it failed.

    Raises:
        ConfigError: the launcher cannot start the jobs; then there is no record of the launch.
    """
    todo, code = choice.todo, code_version(PROJECT_ROOT)
    cluster = launcher.cluster_name()
    record = write_launch(sweep_dir, choice.plans, argv, PROJECT_ROOT, code, launcher.kind, hydra_overrides, cluster)

    def submitted(ids: list[str]) -> None:
        add_job_ids(record, dict(zip((plan.directory for plan in todo), ids)))
        if len(ids) == len(todo):
            lock.close()

    presence: Ownership | None = None
    try:
        if todo:
            if launcher.in_process:  # as long as this process lives, its runs wait for their turn
                record.launcher_directory.mkdir(exist_ok=True)
                presence = Ownership(record.launcher_directory)
                lock.close()
            return launcher.run([plan.freeze(code) for plan in todo], submitted)
        return []
    except ConfigError:  # nothing was started: no launch
        for path in record.path.parent.glob(f"{record.number}.*"):
            if path.is_file():
                path.unlink()
        raise
    finally:
        if presence is not None:
            presence.release()
            shutil.rmtree(record.launcher_directory, ignore_errors=True)
