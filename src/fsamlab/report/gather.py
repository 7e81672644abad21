"""Reads everything that a report shows from the run directories: settings, states, results, curves and costs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.report.curves import Curves, points_per_curve
from fsamlab.results.collect import by_step, collect_run, flatten, read_run_rows
from fsamlab.results.duplicates import best_first, copies, notes_of
from fsamlab.results.study import Study
from fsamlab.rundir.find import read_whole
from fsamlab.rundir.reading import read_environment
from fsamlab.rundir.row_file import Rows
from fsamlab.sweep.launches import Launches, read_launches
from fsamlab.sweep.run_state import RunState
from fsamlab.sweep.status import sweep_state
from fsamlab.sweep.tuning.record import Study as TuningStudy
from fsamlab.sweep.tuning.record import read_study

COSTS = ("cost/train_seconds", "cost/eval_seconds", "cost/diagnostics_seconds")


@dataclass(frozen=True)
class Gathered:
    """The contents of a report. Runs stand in the order of their sweeps.

    Attributes:
        study: the study of the runs. Its frame is that of `collect`, with `status` and `reason` from `fsamlab status`.
        directories: the run directories, in the order of the frame.
        curves: the curves of all metrics, with fewer points.
        commands: `(time, command)` of the launches, oldest first.
        environments: env.json of each run that has started.
        studies: the tuning studies of the sweeps.
        notes: records that cannot be read, why the scheduler did not answer, and runs that were found twice.
    """

    study: Study
    directories: list[Path]
    curves: Curves
    commands: list[tuple[str, str]]
    environments: list[dict[str, Any]]
    studies: list[TuningStudy]
    notes: list[str]

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each run."""
        return self.study.runs

    def counts(self) -> dict[str, int]:
        """Return how many runs have each status."""
        return dict(Counter(self.frame["status"]))


def gather(paths: Sequence[Path]) -> Gathered:
    """Read the runs at or below `paths`, whether they have started or not. A damaged run is a row with a reason.

    Raises:
        ConfigError: there are no runs, or a path does not exist.
    """
    state = sweep_state(paths)
    launches = {d: read_launches(d) for d in dict.fromkeys(s.run.sweep_dir for s in state.runs)}
    planned, problems = _planned(launches)
    groups = copies(state.runs, lambda run: run.disk.get("run_id") if run.status == "finished" else None)
    directories: list[Path] = []
    rows: list[dict[str, Any]] = []
    environments: list[dict[str, Any]] = []
    curves: Curves | None = None
    found: list[list[dict[str, Any]]] = []
    for number, group in enumerate(groups):
        read = [(run, *_read(run, planned.get((run.run.sweep_dir, run.run.directory.name)))) for run in group]
        read = best_first(read, lambda one: one[1], lambda one: one[1]["reason"] is None)
        (run, row, metrics, environment), *others = read
        found.append([one[1] for one in read])
        for other, other_row, *_ in others:
            if other_row["reason"]:
                problems.append(f"a run that was found twice, {other.run.directory}: {other_row['reason']}")
        environments += [environment] if environment else []
        directories.append(run.run.directory)
        rows.append(row)
        if metrics and curves is None:
            curves = Curves(points_per_curve(len(groups) * len(set().union(*metrics.kinds))))
        if metrics and curves is not None:
            curves.add(number, metrics)
    hidden, only_there = notes_of(found)
    studies = [read_whole(read_study, sweep_dir, problems) for sweep_dir in launches]
    return Gathered(
        study=Study(pd.DataFrame(rows)),
        directories=directories,
        curves=curves or Curves(points_per_curve(0)),
        commands=[
            (str(launch.entry.get("time")), shlex.join(map(str, launch.entry.get("command") or [])))
            for found in launches.values()
            for launch in found
        ],
        environments=environments,
        studies=[study for study in studies if study is not None],
        notes=[note for note in (*state.damage, state.jobs.problem, *problems, *hidden, *only_there) if note],
    )


def _planned(launches: dict[Path, Launches]) -> tuple[dict[tuple[Path, str], dict[str, Any]], list[str]]:
    """Return {(sweep, name of a run): its planned configuration}, and a line for each record that cannot be read."""
    planned, problems = {}, []
    for sweep_dir, found in launches.items():
        for launch in found:
            plans = launch.plans()
            planned.update({(sweep_dir, plan.directory.name): plan.config for plan in plans.found})
            problems += [f"configurations of a launch: {plans.damage}"] if plans.damage is not None else []
    return planned, problems


def _read(state: RunState, planned: dict[str, Any] | None) -> tuple[dict[str, Any], Rows, dict[str, Any] | None]:
    """Return the row of a run, its rows of metrics and its environment. Damage of files becomes the row's reason."""
    directory, reasons = state.run.directory, [state.reason] if state.reason else []
    row: dict[str, Any] = {"directory": str(directory), **flatten(planned or {})}
    damage: list[str] = []
    environment = read_whole(read_environment, directory, damage)
    row.update(collect_run(directory))
    if row["status"] == "damaged" and state.status != "damaged":
        damage.append(row["exception"])
    found = read_run_rows(directory)
    damage += [line for line in found.damage if line not in str(row["exception"])]  # else `exception` names it
    if state.status == "finished" and not damage:
        reasons += _gaps(directory, found.metrics, state.disk.get("step"))
    reasons += [f"cannot be read in full: {line}" for line in damage]
    row.setdefault("optimizer.name", "unknown")
    row["status"], row["reason"] = state.status, "; ".join(reasons) or None
    row["last_step"], row["num_steps"] = state.disk.get("step"), state.disk.get("last_step")
    row["started"], row["updated"] = state.disk.get("started"), state.disk.get("updated")
    for measured in by_step(found.measured):
        found.metrics.add(measured)
    return row, found.metrics, environment


def _gaps(directory: Path, metrics: Rows, last_step: int | None) -> list[str]:
    """Return a text for each thing that a finished run should have but does not have."""
    found = [] if (directory / "summary.json").exists() else ["summary.json is missing"]
    if last_step is not None and metrics.last_step < last_step:
        found.append(f"metrics.jsonl ends at step {metrics.last_step} of {last_step}")
    return found
