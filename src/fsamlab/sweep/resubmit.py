"""`fsamlab check` (a sweep command that starts nothing) and `fsamlab resubmit` (jobs from the record of a sweep)."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from fsamlab.config import ConfigError, from_plain
from fsamlab.config.identity import run_id
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.config.space import spelled
from fsamlab.rundir.environment import code_change, code_version
from fsamlab.rundir.find import check_exist, current_status
from fsamlab.sweep.launcher import checked, make_launcher
from fsamlab.sweep.launches import Launch, read_launches
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.submit import choose, say_what_changed, start, sweep_lock
from fsamlab.sweep.tuning.record import FILE
from fsamlab.terminal.errors import SweepFailed

log = logging.getLogger(__name__)

LAUNCHER_KEYS = ("hydra/launcher=", "hydra.launcher.")


def check(overrides: list[str]) -> tuple[Path, list[JobPlan], str | None]:
    """Compose and validate every job of `launch.py -m OVERRIDES`.

    Returns:
        The sweep's directory, its jobs, and a line about what the launcher gives to each job.

    Raises:
        SweepFailed, ConfigError, Hydra's and OmegaConf's errors: a job cannot be used. Nothing was written.
    """
    from hydra.core.plugins import Plugins
    from hydra.types import RunMode

    from fsamlab.config.compose import composing

    overrides = [spelled(word) for word in overrides]
    with composing(overrides) as context:
        master = context.config_loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=_never, config=master
        )
        if not hasattr(sweeper, "plan"):
            allowed = "names no jobs before it runs, so there is nothing to check; leave hydra/sweeper away"
            raise ConfigError("hydra/sweeper", type(sweeper).__name__, allowed)
        plans = sweeper.plan(list(master.hydra.overrides.task))
        sweep_dir = Path(master.hydra.sweep.dir)
        say_what_changed(sweep_dir, plans)
        told = checked(sweeper.launcher).check([plan.freeze({}) for plan in plans])
    return sweep_dir, plans, told


def resubmit(sweep_dir: Path, overrides: list[str], argv: list[str] | None = None) -> None:
    """Start the runs of a sweep that failed, were lost or cancelled, or never ran; with their recorded configurations.

    Args:
        sweep_dir: holds the records in `launches/`.
        overrides: settings of the launcher (`hydra/launcher=...`, `hydra.launcher.KEY=...`), nothing else.
        argv: for the new record; None means the arguments of this process.

    Raises:
        ConfigError: there is no record, or an override would change the runs.
        SweepFailed: some runs did not finish, or were left out because of a damaged file.
    """
    from hydra import compose

    from fsamlab.config.compose import composing, quoted
    from fsamlab.results.summary import print_sweep

    check_exist([sweep_dir])
    sweep_dir = sweep_dir.resolve()
    if (sweep_dir / FILE).exists():
        raise ConfigError("sweep", sweep_dir, "is a tuning study: give its command again, which continues its runs")
    found = read_launches(sweep_dir)
    launches = [launch for launch in found if "hydra_overrides" in launch.entry]
    if not launches:
        allowed = "; ".join(found.damage) or "has no launches/<n>.json; give the sweep command again instead"
        raise ConfigError("sweep", sweep_dir, allowed)
    for word in overrides:
        if not word.startswith(LAUNCHER_KEYS):
            raise ConfigError("resubmit", word, "only the launcher's settings may change: hydra.launcher.KEY=VALUE")
    change = code_change(launches[-1].entry.get("git", {}), code_version(PROJECT_ROOT))
    if change:
        log.warning("the code has changed since launch %s: %s", launches[-1].number, change)
    before = launches[-1].entry["hydra_overrides"]
    if any(word.startswith("hydra/launcher=") for word in overrides):  # another launcher has other settings
        before = [word for word in before if not word.startswith(LAUNCHER_KEYS)]
    used = [*before, *overrides]
    with sweep_lock(sweep_dir) as lock:
        plans, left_out = _plans(launches)
        choice = choose(sweep_dir, plans, force=None)
        left_out += [line for line in found.damage if line not in left_out]
        if choice.todo:
            with composing(overrides) as context:
                # only the launcher's settings are composed; the configurations of the runs are the recorded ones
                place = [f"hydra.sweep.dir={quoted(sweep_dir)}", f"name={quoted(choice.todo[0].config['name'])}"]
                config = compose("config", overrides=[*used, *place], return_hydra_config=True)
                start(
                    make_launcher(context, config),
                    sweep_dir,
                    choice,
                    lock,
                    argv=argv or sys.argv,
                    hydra_overrides=used,
                    on_end=lambda ended: print_sweep(sweep_dir, [plan.directory for plan in ended]),
                )
        else:
            log.info("nothing to resubmit in %s", sweep_dir)
            left_out = [*choice.left_out, *left_out]
    if left_out:
        raise SweepFailed(f"not all of the sweep could be resubmitted: {left_out[0]}")


def _plans(launches: list[Launch]) -> tuple[list[JobPlan], list[str]]:
    """Return the runs of all launches, each from its latest launch, and a line for each run that is left out."""
    plans: dict[Path, JobPlan] = {}
    lost: dict[Path, str] = {}
    for launch in launches:
        read = launch.plans()
        if read.damage is not None:
            log.warning("%s", read.damage)
        plans.update({plan.directory: plan for plan in read.found})
        lost.update({job.directory: str(read.damage) for job in read.lost})
    left_out = {
        directory: f"{directory.name} has no configuration any more ({why}); give the sweep command again"
        for directory, why in lost.items()
        if directory not in plans and current_status(directory)["status"] != "finished"
    }
    for plan in list(plans.values()):
        status = current_status(plan.directory)
        if status["status"] == "finished":
            continue
        if status.get("forced"):  # the run has started over once; this time it resumes
            plan.config["force"] = False
        try:
            now = run_id(from_plain(plan.config))
            why = None if now == plan.run_id else f"its run id is {now} now; give the sweep command again"
        except ConfigError as e:
            why = f"{e}; give the sweep command again"
        if why is not None:
            left_out[plan.directory] = f"{plan.run_id}: {why}"
            del plans[plan.directory]
    for line in left_out.values():
        log.error("error: %s", line)
    return list(plans.values()), list(left_out.values())


def _never(cfg: Any) -> None:
    raise AssertionError("checking starts nothing")
