"""Loads the runs of directories as a study, for figures, tables and notebooks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fsamlab.results.collect import collect_run, read_run_rows
from fsamlab.results.duplicates import best_first, copies, notes_of
from fsamlab.results.study import Study, warn_caller
from fsamlab.rundir.find import find_runs
from fsamlab.rundir.row_file import Row
from fsamlab.storage.reading import Damaged


def load(*directories: str | Path, strict: bool = False) -> Study:
    """Return the study of the runs in directories; `runs, rows = load(...)` gives its two frames.

    `runs` has a row for each run, and `rows` a row for each row of their metrics. If a run finished in two directories
    (same configuration and seed), the study has one copy; its `notes` name the other directory, and a warning names the
    values that were measured only there. The content of a damaged file is left out with a warning, and the `status` of
    its run is `damaged`. If only metrics.jsonl is damaged, the run keeps its status and has no rows.

    Args:
        directories: run directories, or directories with runs in them.
        strict: raise an error for a damaged file, instead of a warning.

    Raises:
        ValueError: no directory was given, or a directory has no runs.
        Damaged: a file cannot be read, and `strict` is true.
    """
    if not directories:
        raise ValueError("load() needs a directory of runs")
    found: dict[Path, None] = {}
    for directory in directories:
        here = find_runs([Path(directory)])
        if not here:
            raise ValueError(
                f"{directory}: no runs here; `python launch.py -m +sweeps=quickstart` makes runs/quickstart"
            )
        found.update(dict.fromkeys(here))
    rows = [collect_run(directory) for directory in found]
    for row in rows:
        damage = [row["exception"]] if row["status"] == "damaged" else []
        if strict:
            damage += read_run_rows(Path(row["directory"])).damage
        if damage and strict:
            raise Damaged("; ".join(dict.fromkeys(damage)))
        if damage:
            warn_caller(f"{damage[0]}; the content of this file is left out")
    groups = [
        best_first(group, lambda row: row, _is_whole)
        for group in copies(rows, lambda row: row["run_id"] if row["status"] == "finished" else None)
    ]
    hidden, only_there = notes_of(groups)
    for note in only_there:
        warn_caller(note)
    return Study(pd.DataFrame([group[0] for group in groups]), (*hidden, *only_there))


def _is_whole(row: Row) -> bool:
    return any(key.startswith("final/") for key in row) and bool(read_run_rows(Path(row["directory"])))
