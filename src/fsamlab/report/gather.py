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
from fsamlab.rundir.row_file import Row, Rows
from fsamlab.sweep.launches import Launches, read_launches
from fsamlab.sweep.run_state import RunState
from fsamlab.sweep.status import SweepState, sweep_state
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
    found = _find(paths)
    directories: list[Path] = []
    rows: list[list[Row]] = []
    environments: list[dict[str, Any]] = []
    curves: Curves | None = None
    for number, group in enumerate(found.groups):
        shown, *others = found.read(group)
        rows.append([shown.row, *(other.row for other in others)])
        directories.append(shown.directory)
        environments += [shown.environment] if shown.environment else []
        if shown.metrics and curves is None:
            curves = Curves(points_per_curve(len(found.groups) * len(set().union(*shown.metrics.kinds))))
        if shown.metrics and curves is not None:
            curves.add(number, shown.metrics)
    studies = [read_whole(read_study, sweep_dir, found.problems) for sweep_dir in found.launches]
    return Gathered(
        study=Study(pd.DataFrame([shown for shown, *_ in rows])),
        directories=directories,
        curves=curves or Curves(points_per_curve(0)),
        commands=[
            (str(launch.entry.get("time")), shlex.join(map(str, launch.entry.get("command") or [])))
            for launches in found.launches.values()
            for launch in launches
        ],
        environments=environments,
        studies=[study for study in studies if study is not None],
        notes=found.notes(rows),
    )


def gather_study(paths: Sequence[Path]) -> Study:
    """Return the study of :func:`gather`, with its notes, without the column `reason`.

    Rows of metrics and environments are not read, but for a run that was found twice: its whole copy is shown.

    Raises:
        ConfigError: there are no runs, or a path does not exist.
    """
    found = _find(paths)
    rows = [[one.row for one in found.read(g)] if len(g) > 1 else [found.row(g[0])[0]] for g in found.groups]
    for sweep_dir in found.launches:
        read_whole(read_study, sweep_dir, found.problems)
    return Study(pd.DataFrame([shown for shown, *_ in rows]), tuple(found.notes(rows)))


@dataclass(frozen=True)
class _Read:
    """What is read of a run: its row, its rows of metrics, and its environment."""

    directory: Path
    row: Row
    metrics: Rows
    environment: dict[str, Any] | None


@dataclass(frozen=True)
class _Found:
    """The runs at some paths, before their files are read.

    Attributes:
        state: the states of the runs.
        launches: the launches of each sweep.
        planned: (sweep, name of a run) -> its planned configuration.
        groups: the runs; a run that finished in several sweeps is one group with its copies.
        problems: a line for each file that cannot be read; reading the runs adds lines.
    """

    state: SweepState
    launches: dict[Path, Launches]
    planned: dict[tuple[Path, str], dict[str, Any]]
    groups: list[list[RunState]]
    problems: list[str]

    def row(self, state: RunState) -> tuple[Row, list[str]]:
        """Return the row of a run without `reason`, and a line for each damaged file."""
        planned = self.planned.get((state.run.sweep_dir, state.run.directory.name))
        row: Row = {"directory": str(state.run.directory), **flatten(planned or {})}
        row.update(collect_run(state.run.directory))
        damage = [row["exception"]] if row["status"] == "damaged" and state.status != "damaged" else []
        row.setdefault("optimizer.name", "unknown")
        row["status"] = state.status
        row["last_step"], row["num_steps"] = state.disk.get("step"), state.disk.get("last_step")
        row["started"], row["updated"] = state.disk.get("started"), state.disk.get("updated")
        return row, damage

    def read(self, group: list[RunState]) -> list[_Read]:
        """Read the copies of a run. The first is the copy to show; damage of the others is added to `problems`."""
        read = best_first(
            [self._read(state) for state in group], lambda one: one.row, lambda one: one.row["reason"] is None
        )
        for other in read[1:]:
            if other.row["reason"]:
                self.problems.append(f"a run that was found twice, {other.directory}: {other.row['reason']}")
        return read

    def _read(self, state: RunState) -> _Read:
        """Read all files of a run. Damage of files becomes the row's reason."""
        directory, reasons = state.run.directory, [state.reason] if state.reason else []
        damage: list[str] = []
        environment = read_whole(read_environment, directory, damage)
        row, of_row = self.row(state)
        found = read_run_rows(directory)
        damage += [*of_row, *(line for line in found.damage if line not in str(row["exception"]))]
        if state.status == "finished" and not damage:
            reasons += _gaps(directory, found.metrics, state.disk.get("step"))
        reasons += [f"cannot be read in full: {line}" for line in damage]
        row["reason"] = "; ".join(reasons) or None
        for measured in by_step(found.measured):
            found.metrics.add(measured)
        return _Read(directory, row, found.metrics, environment)

    def notes(self, rows: Sequence[Sequence[Row]]) -> list[str]:
        """Return the notes of a report; `rows` has for each run the rows of its copies, the copy to show first."""
        hidden, only_there = notes_of(rows)
        notes = [*self.state.damage, self.state.jobs.problem, *self.problems, *hidden, *only_there]
        return [note for note in notes if note]


def _find(paths: Sequence[Path]) -> _Found:
    state = sweep_state(paths)
    launches = {d: read_launches(d) for d in dict.fromkeys(s.run.sweep_dir for s in state.runs)}
    planned, problems = _planned(launches)
    groups = copies(state.runs, lambda run: run.disk.get("run_id") if run.status == "finished" else None)
    return _Found(state, launches, planned, groups, problems)


def _planned(launches: dict[Path, Launches]) -> tuple[dict[tuple[Path, str], dict[str, Any]], list[str]]:
    """Return {(sweep, name of a run): its planned configuration}, and a line for each record that cannot be read."""
    planned, problems = {}, []
    for sweep_dir, found in launches.items():
        for launch in found:
            plans = launch.plans()
            planned.update({(sweep_dir, plan.directory.name): plan.config for plan in plans.found})
            problems += [f"configurations of a launch: {plans.damage}"] if plans.damage is not None else []
    return planned, problems


def _gaps(directory: Path, metrics: Rows, last_step: int | None) -> list[str]:
    """Return a text for each thing that a finished run should have but does not have."""
    found = [] if (directory / "summary.json").exists() else ["summary.json is missing"]
    if last_step is not None and metrics.last_step < last_step:
        found.append(f"metrics.jsonl ends at step {metrics.last_step} of {last_step}")
    return found
