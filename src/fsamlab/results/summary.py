"""The text at the end of a sweep: results, failed runs, where the files are, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fsamlab.metrics import ROWS, ordered
from fsamlab.results.collect import collect
from fsamlab.results.gains import VS_SGD, gain_text, gains_of, reference_words
from fsamlab.results.settings import in_order, own_n, plain
from fsamlab.results.study import Study
from fsamlab.results.tuned import own_radii, tuned_tables
from fsamlab.rundir.find import current_status, settings_of, why_unfinished
from fsamlab.rundir.measurements import MEASUREMENTS, latest
from fsamlab.terminal.tables import Column, table, wrapped
from fsamlab.terminal.text import console, fixed, project_relative, spread


def settings_table(study: Study, width: int | None = None) -> Table:
    """Return the headline metric, the gains over SGD and the costs by setting, in the order of :func:`in_order`.

    A mean over fewer than n runs has its own n beside it. All runs have the same headline metric.
    """
    headline = study.headline
    found = study.settings()
    keys, settings = in_order(found)
    columns = [
        *(Column(key.removesuffix(".name")) for key in keys),
        Column("n", right=True),
        Column("at best validation epoch", right=True),
        Column("at the end", right=True),
        *([Column(VS_SGD, right=True, rank=1)] if gains_of(found, headline.at_end) else []),
        Column("passes", right=True, rank=2),
        Column("time", right=True, rank=3),
        Column("time per step", right=True, rank=4),
    ]
    of_sgd = found["passes_vs_sgd"].notna().any()
    rows: list[list[str | Text]] = []
    for row in settings:
        values = [mean_of(row, metric, headline.percent) for metric in (headline.at_best, headline.at_end)]
        if gains_of(found, headline.at_end):
            values.append(gain_text(row, headline.at_end))
        passes = fixed(row["passes_vs_sgd"], 2, "x") if of_sgd else fixed(row["passes"], 1)
        costs = [passes, fixed(row["total_vs_sgd"], 2, "x"), fixed(row["step_ms"], 1, " ms")]
        rows.append([*(plain(row[k]) for k in keys), str(row["n"]), *values, *costs])
    return table(columns, rows, width, f"Test {headline.words}, mean ± standard deviation over seeds")


def print_settings(study: Study, screen: Console) -> None:
    """Print the table of the finished runs, if there are any, and which settings change together.

    A study with several radii and a validation split has a second table: each method at the radius that validation
    chooses.
    Runs of tasks with different headline metrics are in different tables.
    """
    for part in study.finished.by_headline if len(study.finished.runs) else []:
        screen.print(settings_table(part, screen.width))
        gained = reference_words(gains_of(part.settings(), part.headline.at_end))
        for note in [*own_radii(part), *gained, *part.tie_notes()]:
            screen.print(wrapped(screen, f"note: {note}", hang=6), soft_wrap=True)
        for found in tuned_tables(part):
            columns = [Column(heading, right=i >= found.num_names) for i, heading in enumerate(found.header)]
            screen.print(table(columns, found.lines, screen.width, found.title))
            for note in found.notes:
                screen.print(wrapped(screen, f"note: {note}", hang=6), soft_wrap=True)


def mean_of(row: dict[Any, Any], metric: str, percent: bool) -> str:
    """Return `mean ± std` of a row of `by_setting`, followed by its own n if that differs from the row's n."""
    n = row.get(f"{metric} n", 0)
    own = own_n(int(n), row["n"]) if n > 0 else ""
    return spread(row.get(f"{metric} mean"), row.get(f"{metric} std"), percent) + own


BESIDE_VALUES = 38  # characters for the (shortened) name of a run and its step
HEADLINES = ordered(row.key for row in ROWS if row.terminal)


def columns_in_parts(keys: Sequence[str], width: int) -> list[list[str]]:
    """Divide the keys of a table's columns into parts that fit into `width` beside the names of the runs."""
    parts: list[list[str]] = [[]]
    room = left = width - BESIDE_VALUES
    for key in keys:
        needed = 3 + max(len(key.split("/")[1]), 9)
        if needed > left and parts[-1]:
            parts, left = [*parts, []], room
        parts[-1].append(key)
        left -= needed
    return parts


def print_measurements(runs: Sequence[Path], screen: Console) -> None:
    """Print the values of `fsamlab measure`: all values for one run, the most important ones for several runs."""
    rows = {run: latest(run) for run in runs}
    if len(rows) == 1:
        ((run, row),) = rows.items()
        found = Table(title=f"{run.name}, step {row['step']}", title_justify="left")
        found.add_column("")
        found.add_column("value", justify="right")
        for key, value in row.items():
            if "/" in key:
                found.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        screen.print(found)
    elif rows:
        keys = [key for key in HEADLINES if any(key in row for row in rows.values())]
        settings = settings_of(list(rows))
        names = [
            Column("run", names=True),
            *([Column("setting")] if any(settings) else []),
            Column("step", right=True),
        ]
        for part in columns_in_parts(keys, screen.width):
            columns = [*names, *(Column(key.split("/")[1], right=True) for key in part)]
            lines_of = [
                [run.name, *([setting] if any(settings) else []), str(row["step"])]
                + [f"{row[k]:.4g}" if k in row else "-" for k in part]
                for (run, row), setting in zip(rows.items(), settings)
            ]
            screen.print(table(columns, lines_of, screen.width, "Measured"))
    notes = Counter(row["note"] for row in rows.values() if "note" in row)
    lines = [f"{number} of {len(rows)} runs: {note}" for note, number in notes.items()]
    if rows:
        first = project_relative(next(iter(rows)) / MEASUREMENTS)
        lines.append(f"rows: {first}{f' and those of the {len(rows) - 1} others' if len(rows) > 1 else ''}")
    for line in lines:
        screen.print(line, soft_wrap=True)


def print_failures(frame: pd.DataFrame, screen: Console) -> None:
    """Print a line for each run that did not finish, with the reason and the log; and how many runs are paused."""
    paused = frame["status"] == "paused"
    if paused.any():
        screen.print(f"{paused.sum()} of {len(frame)} runs are paused by their study", soft_wrap=True)
    frame = frame[~paused]
    if not (frame["status"] != "finished").any():
        return
    directories = [Path(d) for d in frame["directory"]]
    lines: list[Text] = []
    for directory, setting, status, exception in zip(
        directories, settings_of(directories), frame["status"], frame["exception"]
    ):
        if status == "finished":
            continue
        reason = exception if isinstance(exception, str) else why_unfinished(current_status(directory))
        name = directory.name + (f" ({setting})" if setting else "")
        # "not begun" and not "queued": the directory does not show whether something will start the run
        word = "not begun" if status == "queued" else status
        lines.append(Text(wrapped(screen, f"{word:>9}  {name}: {reason}"), style="red"))
        if (directory / "run.log").exists():
            lines.append(Text(f"           log: {project_relative(directory / 'run.log')}"))
    screen.print(Group(*lines), soft_wrap=True)  # at once: a call for each of some thousand lines takes a second


def print_sweep(sweep_dir: Path, directories: Sequence[Path]) -> int:
    """Print the results of a sweep, and return the number of runs that did not finish."""
    screen = console()
    frame = collect(directories)
    print_settings(Study(frame), screen)
    print_failures(frame, screen)
    finished = [Path(d) for d in frame["directory"][frame["status"] == "finished"]]
    num_failed = len(frame) - len(finished)
    where = project_relative(sweep_dir)
    screen.print(
        f"{len(finished)} of {len(frame)} runs finished; each has its directory below {where}/", soft_wrap=True
    )
    screen.print("next:", soft_wrap=True)
    if num_failed:
        again = f"fsamlab resubmit {where}"
        screen.print(f"  {again:<44} runs again what did not finish, in the same settings", soft_wrap=True)
    if finished:
        screen.print(f"  {f'fsamlab collect {where}':<44} a row per run, as results.csv", soft_wrap=True)
        screen.print(f"  {f'fsamlab report {where} --open':<44} an HTML page with curves", soft_wrap=True)
        screen.print(f"  less {project_relative(finished[0])}/metrics.jsonl", soft_wrap=True)
    if not num_failed:
        other = "python launch.py -m optimizer=sam,fsam optimizer.rho=0.1,0.2,0.4 name=my_rho"
        screen.print(f"  {other}", soft_wrap=True)
    return num_failed
