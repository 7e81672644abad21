"""Run directories -> the frames that figures and tables are made of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.files import Damaged
from fsamlab.measure import read_measurements
from fsamlab.record import read_rows
from fsamlab.sweep.results import collect_run, measured_row
from fsamlab.sweep.runs import find_runs
from fsamlab.sweep.twice import add_measured


def load(*directories: str | Path, strict: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `runs`, a row for each run, and `rows`, a row for each row of their metrics, of directories of runs.

    A run that finished in two of them (same configuration and seed) is there once, with what either measured, see
    :func:`~fsamlab.sweep.twice.add_measured`. Rows that cannot be read are left out with a warning, their run is
    not.

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
    rows: list[list[dict[str, Any]]] = []
    numbers: dict[str, int] = {}
    for directory in found:
        row, own = collect_run(directory), []
        try:
            own = rows_of(directory)
        except Damaged as e:
            if strict:
                raise
            warnings.warn(f"{e}; the rows of this run are left out", stacklevel=2)
        run_id = row["run_id"] if row["status"] == "finished" else None
        if run_id in numbers:
            add_measured(runs[numbers[run_id]], rows[numbers[run_id]], row, own)
            continue
        if run_id is not None:
            numbers[run_id] = len(runs)
        runs.append(row)
        rows.append(own)
    each = [{"directory": run["directory"], **row} for run, own in zip(runs, rows) for row in own]
    return pd.DataFrame(runs), pd.DataFrame(each)


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return a run's rows of metrics.jsonl, and those of `fsamlab measure` with their keys as `measured/...`.

    Raises:
        Damaged: a line is no JSON object.
    """
    return [*read_rows(run), *map(measured_row, read_measurements(run))]
