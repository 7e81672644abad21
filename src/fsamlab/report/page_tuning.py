"""The tables of the page for tuning studies: each method at the setting that validation data chose."""

from __future__ import annotations

import pandas as pd

from fsamlab.metrics import Headline
from fsamlab.report.gather import Gathered
from fsamlab.results.settings import numbers
from fsamlab.results.tuned import TunedTable
from fsamlab.sweep.tuning.record import Group, Study, Trial
from fsamlab.sweep.tuning.view import at_an_end, counts, metric_name, setting
from fsamlab.terminal.text import quantity, spread

DASH = "–"


def study_tables(gathered: Gathered) -> list[TunedTable]:
    """Return a table for each tuning study among the sweeps of a page."""
    return [_table(study, gathered) for study in gathered.studies]


def _table(study: Study, gathered: Gathered) -> TunedTable:
    frame = gathered.frame.set_index(pd.Index([directory.name for directory in gathered.directories]))
    headline = gathered.study.headlines[0] if len(gathered.study.headlines) == 1 else None
    header = ["method", "chosen setting", "trials", "seeds", "validation"]
    header += ["test, best epoch", "test, at the end"] if headline else []
    lines, notes = [], []
    for name, group in zip(study.names(), study.groups):
        best = group.best
        cells = [name, DASH if best is None else setting(best), counts(group)]
        if best is None:
            lines.append([*cells, *[DASH] * (len(header) - len(cells))])
            continue
        cells += [str(len(best.runs)), quantity(best.values[-1], group.percent)]
        lines.append([*cells, *(_tests(frame, best, headline) if headline else [])])
        notes += [f"{name}: {note}" for note in at_an_end(group)]
        notes += _saved(name, group)
    title = f"Tuning: the setting of each method with the best {metric_name(study)}, a mean over seeds"
    return TunedTable(title, header, 2, lines, notes)


def _tests(frame: pd.DataFrame, trial: Trial, headline: Headline) -> list[str]:
    """Return the test values of a chosen setting, at the best epoch and at the end."""
    runs = frame.loc[[name for name in trial.runs if name in frame.index]]
    found = []
    for column in (headline.at_best, headline.at_end):
        values = numbers(runs[column]).dropna() if column in runs else pd.Series(dtype=float)
        found.append(DASH if values.empty else spread(values.mean(), values.std(), headline.percent))
    return found


def _saved(name: str, group: Group) -> list[str]:
    """Return a note about the epochs that successive halving has saved; none without halving."""
    if len(group.epochs) < 2:
        return []
    trained = sum(group.epochs[len(trial.values) - 1] for trial in group.trials if trial.values)
    whole = group.epochs[-1] * len(group.trials)
    pauses = ", ".join(map(str, group.epochs[:-1]))
    return [f"{name}: pauses after {pauses} of {group.epochs[-1]} epochs; {trained} of {whole} epochs were trained"]
