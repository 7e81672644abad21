"""Texts and tables of the page: facts about the runs, results by setting, runs that did not finish."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.metrics import (
    AT_CHECKPOINT,
    CLASSIFICATION,
    EVALUATED,
    ROWS,
    Declared,
    Headline,
    columns_of,
    higher_is_better,
    of,
)
from fsamlab.metrics import Column as TableColumn
from fsamlab.report import page_gains
from fsamlab.report.gather import COSTS, Gathered
from fsamlab.results.gains import UNEQUAL
from fsamlab.results.methods import label
from fsamlab.results.settings import clear_best, conditions_of, keys_of, plain
from fsamlab.terminal.text import counted, spread

COLUMNS = sorted(  # beside those of the headline, each with its key in the summary; those of a checkpoint are the last
    ((f"{column.source}{row.key}", column) for row in ROWS for column in row.columns),
    key=lambda found: found[1].source == AT_CHECKPOINT,
)

COST = (  # column of by_setting, heading, explanation, form
    ("passes", "gradient passes", "of a whole training, in epochs of SGD: forward and backward, as counted", "{:.4g}"),
    ("passes_vs_sgd", "passes", "gradient passes of a whole training, SGD's being 1", "{:.2f}x"),
    ("total_vs_sgd", "time", "time of a whole training's steps, SGD's being 1", "{:.2f}x"),
    ("step_ms", "ms per step", "median over the runs", "{:.1f}"),
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the text of the cell.
        value: the value by which the column is sorted; an empty string for an empty cell.
        bold: whether the value is clearly the best.
        key: whether the cell names the row.
        options: text and value with each reference that the reader may choose; the first one is shown.
    """

    text: str
    value: float | str
    bold: bool = False
    key: bool = False
    options: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True)
class Table:
    """Headings `(text, explanation, numeric)` and rows of cells.

    Attributes:
        headings, rows: the table.
        references: what the differences of the table may be to, as the reader may choose; the first one is shown.
        notes: a line below the table for each of the references.
    """

    headings: list[tuple[str, str, bool]]
    rows: list[list[Cell]]
    references: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column: heading, explanation, and a function of the index and row of :func:`by_setting` that makes a cell."""

    heading: str
    text: str
    cell: Callable[[Any, pd.Series], Cell]
    numeric: bool = True


def results(gathered: Gathered) -> Table | None:
    """Return the results by setting; None if no run has finished.

    Settings that are compared with each other stand together. Methods are in the order of the sweep.
    """
    declared = gathered.study.headlines
    of_headlines = [(key, _named(column, h, declared)) for h in declared for key, column in columns_of(h).items()]
    found_columns = (*of_headlines, *COLUMNS, *_of_other_data(gathered.frame))
    metrics = [found for found in found_columns if found[0] in gathered.frame]
    table = gathered.study.settings([key for key, _ in metrics])
    if table.empty:
        return None
    gains = page_gains.of(gathered.study, [headline.at_end for headline in declared], table)
    keys = keys_of(table)
    scopes = conditions_of(keys)
    if scopes:
        table = table.iloc[table.groupby(scopes, sort=False, dropna=False).ngroup().argsort(kind="stable")]
    counted_runs = "finished runs, which mean and standard deviation are over, or fewer where the cell says so"
    columns = [*map(_of_key, keys), Column("n", counted_runs, lambda i, row: Cell(str(row["n"]), row["n"]))]
    for key, of_key in metrics:
        if f"{key} mean" in table:
            best = clear_best(table, key, declared) if of_key.judged else set()
            percent = of(key, declared).percent
            heading = of_key.heading + (",\u00a0%" if percent else "")
            columns.append(Column(heading, of_key.text, partial(_mean, key, percent, best)))
        if key in gains.metrics:
            points = ", in points" if of(key, declared).percent else ""
            better = "higher" if higher_is_better(key, declared) else "lower, which is better"
            text = (
                f"{of_key.text} minus that of the chosen reference with the same seed{points}: mean [95 % t interval], "
                f"seeds in which it is {better}; {UNEQUAL} where the gradient passes of both are not equal"
            )
            columns.append(Column(f"{of_key.heading} − reference", text, partial(_gain, gains, key)))
    relative = table["passes_vs_sgd"].notna().any()  # without SGD the table has the passes themselves
    columns += [
        Column(heading, text, partial(_plain, key, form))
        for key, heading, text, form in COST
        if key == "step_ms" or (table[key].notna().any() and not (key == "passes" and relative))
    ]
    rows = [[column.cell(i, row) for column in columns] for i, row in table.iterrows()]
    return Table([(c.heading, c.text, c.numeric) for c in columns], rows, gains.names, gains.notes)


def _of_other_data(frame: pd.DataFrame) -> list[tuple[str, TableColumn]]:
    """Return the columns for the data sets that `fsamlab evaluate` has evaluated the runs on."""
    sets = dict.fromkeys(str(c).split("/")[1] for c in frame.columns if str(c).startswith(EVALUATED))
    return [
        (f"{EVALUATED}{data}/{metric}", TableColumn("", f"{data}: {words}", f"{text} on {data}, by fsamlab evaluate"))
        for data in sets
        for metric, words, text in (
            ("acc1", "accuracy", "accuracy; of corrupted images the mean over the fifteen standard corruptions"),
            ("mce", "mCE", "error relative to AlexNet's, mean over the fifteen standard corruptions"),
            ("ece", "calibration error", "expected calibration error"),
        )
    ]


def _of_key(key: str) -> Column:
    def cell(index: Any, row: pd.Series) -> Cell:
        return Cell(shown_setting(key, row[key]), _sortable(row[key]), key=True)

    return Column(key.removesuffix(".name"), f"the configuration's {key}", cell, numeric=False)


def _named(column: TableColumn, headline: Headline, declared: Declared) -> TableColumn:
    """Return the column of a headline metric, with the name of the metric where it is not the accuracy of all runs."""
    if declared == (CLASSIFICATION,):
        return column
    return replace(column, heading=f"{headline.name}: {column.heading}")


def _mean(key: str, percent: bool, best: set[Any], index: Any, row: pd.Series) -> Cell:
    cell = spread_cell(row[f"{key} mean"], row[f"{key} std"], percent, index in best)
    fewer = 0 < row[f"{key} n"] < row["n"]
    return replace(cell, text=f"{cell.text} (n\u00a0=\u00a0{row[f'{key} n']:.0f})") if fewer else cell


def _gain(gains: page_gains.Gains, key: str, index: Any, row: pd.Series) -> Cell:
    options = gains.options(key, index)
    return Cell(*options[0], options=options)


def _plain(key: str, form: str, index: Any, row: pd.Series) -> Cell:
    return Cell("–", "") if math.isnan(row[key]) else Cell(form.format(row[key]), row[key])


def shown_setting(key: str, value: Any) -> str:
    """Return a config value as the tables show it: a method by its name in texts."""
    return label(str(value)) if key == "optimizer.name" else shown(value)


def shown(value: Any) -> str:
    """Return a config value as the page shows it."""
    return "–" if value is None or value != value else plain(value)


def _sortable(value: Any) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "" if math.isnan(value) else value
    return str(value)


def spread_cell(mean: float, std: float, percent: bool, bold: bool) -> Cell:
    """Return `mean ± std`; `–` where there is no value, the mean alone where there is no deviation."""
    if math.isnan(mean):
        return Cell("–", "")
    return Cell(spread(mean, std, percent), mean, bold)


def unfinished(gathered: Gathered) -> list[dict[str, str]]:
    """Return run, status, progress and reason of each run that did not finish, is damaged, or diverged.

    A run that was paused as planned is not among them.
    """
    rows = []
    for directory, (_, run) in zip(gathered.directories, gathered.frame.iterrows()):
        diverged = f"diverged at step {at}: the loss was not finite" if (at := diverged_at(run)) is not None else ""
        reason = "; ".join(text for text in (run["reason"], diverged) if isinstance(text, str) and text)
        if run["status"] in ("finished", "paused") and not reason:
            continue
        done, of = run["last_step"] if run["last_step"] == run["last_step"] else None, run["num_steps"]
        progress = "–" if not done else f"step {done:.0f}" + (f" of {of:.0f}" if of and of == of else "")
        log = directory / "run.log"
        rows.append(
            {
                "run": directory.name,
                "status": run["status"],
                "progress": progress,
                "reason": reason,
                "log": str(log) if log.exists() else "",
            }
        )
    return rows


def diverged_at(run: pd.Series) -> int | None:
    """Return the first step with a loss that was not finite, if the run went on after it; None for other runs."""
    step = run.get("train/diverged_at")
    return None if step is None or step != step else int(step)


def facts(gathered: Gathered) -> list[tuple[str, list[str]]]:
    """Return `(term, lines)` for command, times, code, versions, machine and cost."""
    frame, found = gathered.frame, []
    found.append(("command", [f"python {command}  ({read_time(time)})" for time, command in gathered.commands]))
    times = [frame[c].dropna() for c in ("started", "updated")]
    if len(times[0]):
        found.append(("from, to", [f"{read_time(times[0].min())} – {read_time(times[1].max())}"]))
    environments = gathered.environments
    found.append(("code", _tally(_code(e) for e in environments)))
    found.append(("versions", _tally(_versions(e) for e in environments)))
    found.append(("machine", _tally(_machine(e) for e in environments)))
    found.append(("cost", _cost(frame)))
    return [(term, lines) for term, lines in found if lines]


def duration(seconds: float) -> str:
    """Return `42 s`, `3 min 20 s`, `5 h 7 min`, `2 d 3 h`."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in units:
        if rest >= size or parts or unit == "s":
            parts.append(f"{rest // size} {unit}")
            rest %= size
    return " ".join(parts[:2])


def read_time(stamp: str) -> str:
    """Return a time of a record (ISO 8601, UTC) in a readable form."""
    return stamp.replace("T", " ").replace("+00:00", " UTC")


def _tally(values: Any) -> list[str]:
    """Return each value once, with its number of runs if there are several values."""
    counts = Counter(values)
    return [value if len(counts) == 1 else f"{value}  ({counted(n, 'run')})" for value, n in counts.most_common()]


def _code(environment: dict[str, Any]) -> str:
    git = environment.get("git") or {}
    sha = str(git.get("sha") or "no git commit")[:12]
    return sha + (", with uncommitted changes" if git.get("dirty") else "")


def _versions(environment: dict[str, Any]) -> str:
    libraries = environment.get("libraries") or {}
    named = ", ".join(f"{k} {libraries[k]}" for k in ("fsamlab", "torch", "torchvision", "timm") if k in libraries)
    return f"{named}, Python {environment.get('python')}"


def _machine(environment: dict[str, Any]) -> str:
    device = environment.get("device_name") or environment.get("device")
    threads: Any = environment.get("num_threads")
    return f"{device} on {environment.get('host')} ({environment.get('cpu')}, {counted(threads, 'thread')})"


def _cost(frame: pd.DataFrame) -> list[str]:
    if not set(COSTS) <= set(frame.columns):
        return []
    train, evaluation, diagnostics = (float(frame[c].sum()) for c in COSTS)
    n = int(frame[COSTS[0]].notna().sum())
    return [
        f"{duration(train + evaluation + diagnostics)} over {counted(n, 'finished run')}: training {duration(train)}, "
        f"evaluation {duration(evaluation)}, diagnostics {duration(diagnostics)}"
    ]


def common_settings(gathered: Gathered, varied: Sequence[str]) -> list[tuple[str, str]]:
    """Return `(config key, value)` for the keys that have the same value in all runs."""
    keys = [k for k in gathered.study.config_keys if k not in varied]
    return [(k, shown(gathered.frame[k].iloc[0])) for k in keys]


def page_title(gathered: Gathered, paths: Sequence[Path]) -> str:
    """Return the title of the page: the names of the sweeps, or of the directories."""
    named = [] if "name" not in gathered.frame else [str(n) for n in gathered.frame["name"].dropna().unique()]
    return ", ".join(named or [p.resolve().name for p in paths])
