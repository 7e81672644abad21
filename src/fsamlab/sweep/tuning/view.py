"""A tuning study on the screen: one line for each method, in `fsamlab status` and at the end of the sweep."""

from __future__ import annotations

import math
import re
from pathlib import Path

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from fsamlab.sweep.tuning.record import FAILED, FINISHED, PAUSED, PRUNED, RUNNING, Group, Study, Trial
from fsamlab.terminal.tables import Column, table
from fsamlab.terminal.text import console, project_relative, quantity

COLUMNS = (
    Column("method"),
    Column("trials", right=True),
    Column("finished", right=True, rank=2),
    Column("running", right=True, rank=3),
    Column("paused", right=True, rank=4),
    Column("pruned", right=True, rank=5),
    Column("failed", right=True, rank=1),
    Column("best", right=True),
    Column("at"),
)


def setting(trial: Trial) -> str:
    """Return the searched values of a trial, `optimizer.rho=0.05`; `as it is` without any."""
    return " ".join(f"{key}={value}" for key, value in trial.params.items()) or "as it is"


def metric_name(study: Study) -> str:
    """Return what judges the trials, in words."""
    columns = list(dict.fromkeys(group.metric for group in study.groups if group.metric))
    column = columns[0] if len(columns) == 1 else "the validation metric"
    place, _, key = column.partition("/")
    words = {"best": f"{key} at the best epoch", "final": f"{key} at the last epoch"}.get(place, column)
    percent = any(group.percent for group in study.groups if group.metric)
    return words + (" in %" if percent and len(columns) == 1 else "")


def cells(name: str, group: Group) -> list[str]:
    """Return the cells of :data:`COLUMNS` for a group."""
    best = group.best
    numbers = [group.count(state) for state in (FINISHED, RUNNING, PAUSED, PRUNED, FAILED)]
    shown = "-" if best is None else quantity(best.values[-1], group.percent)
    where = "-" if best is None else setting(best)
    return [name, f"{len(group.trials)}/{group.size}", *map(str, numbers), shown, where]


def study_table(study: Study, width: int | None = None) -> Table:
    """Return the table of a study: the trials of each method, and the best setting so far."""
    rows = [cells(name, group) for name, group in zip(study.names(), study.groups)]
    title = f"Tuning: best by {metric_name(study)}, mean over seeds; test data choose nothing"
    return table(COLUMNS, rows, width, title)


def counts(group: Group) -> str:
    """Return `30 of 30: 10 finished, 20 pruned`."""
    known = [
        f"{group.count(state)} {state}" for state in (FINISHED, RUNNING, PAUSED, PRUNED, FAILED) if group.count(state)
    ]
    return f"{len(group.trials)} of {group.size}" + (f": {', '.join(known)}" if known else "")


def at_an_end(group: Group, share: float = 0.05) -> list[str]:
    """Return a note for each searched number whose best value is at an end of its range, or nearer than `share`."""
    best, notes = group.best, []
    for key, text in group.space.items() if best else ():
        found = re.fullmatch(r"(?:int\()?(interval|log)\(([^,]+),([^)]+)\)\)?", text)
        if found is None or best is None:
            continue
        low, high, value = (float(number) for number in (found[2], found[3], best.params[key]))
        if found[1] == "log":
            low, high, value = math.log(low), math.log(high), math.log(value)
        place = (value - low) / (high - low)
        if min(place, 1 - place) < share:
            notes.append(f"the best {key}={best.params[key]} is at an end of {text}: a better one may lie beyond")
    return notes


def describe(study: Study, width: int | None = None) -> Lines:
    """Return the table of a study, with a line for each failed trial and for each best value at an end of its range."""
    lines = []
    for name, group in zip(study.names(), study.groups):
        for trial in group.trials:
            if trial.state == FAILED:
                line = f"  failed  {name}, trial {trial.number} ({setting(trial)}): {trial.reason}"
                lines.append(Text(line, style="red"))
        lines += [Text(f"note: {name}: {note}") for note in at_an_end(group)]
    return Lines(study_table(study, width), *lines)


def print_study(study: Study, sweep_dir: Path) -> None:
    """Print the table at the end of a study, failed trials, and what to do next."""
    screen = console()
    screen.print(describe(study, screen.width), soft_wrap=True)
    where = project_relative(sweep_dir)
    screen.print("next:", soft_wrap=True)
    screen.print(f"  {f'fsamlab report {where} --open':<44} an HTML page with all trials", soft_wrap=True)
    screen.print(f"  {f'less {where}/tune.json':<44} the record of the study", soft_wrap=True)
