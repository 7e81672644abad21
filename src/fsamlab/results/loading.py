"""Run directories -> the frames that figures and tables are made of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.results.duplicates import add_measured, copies
from fsamlab.results.settings import collect_run, rows_of
from fsamlab.rundir.find import find_runs, read_whole
from fsamlab.storage.reading import Damaged


def load(*directories: str | Path, strict: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `runs`, a row for each run, and `rows`, a row for each row of their metrics, of directories of runs.

    A run that finished in two of them (same configuration and seed) is there once, with what either measured, see
    :func:`~fsamlab.results.duplicates.add_measured`. What cannot be read is left out with a warning, its run is not:
    its `status` is `damaged` unless only rows are.

    Args:
        directories: each a run's directory or one with runs in it.
        strict: raise an error in place of the warning.

    Raises:
        ValueError: no directory, or no runs in one.
        Damaged: a file that cannot be read.
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
    runs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    read = [_read(directory) for directory in found]
    for *_, damage in read:
        if damage is not None and strict:
            raise damage
        if damage is not None:
            warnings.warn(f"{damage}; the rows of this run are left out", stacklevel=2)
    for group in copies(read, lambda run: run[0]["run_id"] if run[0]["status"] == "finished" else None):
        group.sort(key=_has_gaps)  # a damaged copy does not stand for a whole one
        (row, own, _), *others = group
        for other, other_rows, _ in others:
            for name in add_measured(row, own, other, other_rows):
                twice = f"{name}: measured under different conventions in {row['directory']} and {other['directory']}"
                warnings.warn(f"{twice}; the first's count", stacklevel=2)
        runs.append(row)
        rows += [{"directory": row["directory"], **one} for one in own]
    return pd.DataFrame(runs), pd.DataFrame(rows)


Run = tuple[dict[str, Any], list[dict[str, Any]], Damaged | None]  # its row, its rows, why there are none


def _read(directory: Path) -> Run:
    row = collect_run(directory)
    damage = [row["exception"]] if row["status"] == "damaged" else []
    rows = read_whole(rows_of, directory, damage) or []
    return row, rows, Damaged("; ".join(dict.fromkeys(damage))) if damage else None


def _has_gaps(run: Run) -> bool:
    row, rows, _ = run
    return not rows or not any(key.startswith("final/") for key in row)
