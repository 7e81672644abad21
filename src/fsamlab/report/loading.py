"""Run directories -> the frames that figures and tables are made of."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.files import Damaged
from fsamlab.measure import read_measurements
from fsamlab.record import read_rows
from fsamlab.sweep.results import collect, measured_row
from fsamlab.sweep.runs import find_runs


def load(*directories: str | Path, strict: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `runs`, a row for each run, and `rows`, a row for each row of their metrics, of directories of runs.

    A run that finished in two of them (same configuration and seed) is there once, as in the first; the second adds
    metrics that the first lacks, see :func:`once`. Rows that cannot be read are left out with a warning, their run is
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
    rows: list[dict[str, Any]] = []
    for run in found:
        try:
            rows += rows_of(run)
        except Damaged as e:
            if strict:
                raise
            warnings.warn(f"{e}; the rows of this run are left out", stacklevel=2)
    return once(collect(found), pd.DataFrame(rows))


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return a run's rows of metrics.jsonl, and those of `fsamlab measure` with their keys as `measured/...`.

    Raises:
        Damaged: a line is no JSON object.
    """
    found = [*read_rows(run), *map(measured_row, read_measurements(run))]
    return [{"directory": str(run), **row} for row in found]


def once(runs: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the frames with one run for those that finished in two sweeps: they are no further seed.

    The first stays, with its values. Metrics that it lacks and the second has are taken from there, unless the two were
    measured under different conventions (docs/metrics.md); those of `fsamlab measure` have conventions of their own.
    """
    if "run_id" not in runs:
        return runs, rows
    done = runs[(runs["status"] == "finished") & runs["run_id"].notna()]
    twice = done[done["run_id"].duplicated()]
    if twice.empty:
        return runs, rows
    cell: Any = (runs := runs.copy()).at
    firsts = {run_id: group.index[0] for run_id, group in done.groupby("run_id", sort=False)}
    by_run = dict(tuple(rows.groupby("directory"))) if len(rows) else {}
    added = []
    for second in twice.index:
        first = firsts[cell[second, "run_id"]]
        to, source = cell[first, "directory"], cell[second, "directory"]
        for measured in (False, True):
            if not _alike(runs.loc[first].to_dict(), runs.loc[second].to_dict(), measured):
                continue
            for key in _metrics(runs.columns, measured):
                if _missing(cell[first, key]):
                    cell[first, key] = cell[second, key]
            if source in by_run:
                own, other = by_run.get(to, rows.iloc[:0]), by_run[source]
                lacking = [key for key in _metrics(rows.columns, measured) if own[key].isna().all()]
                more = other[["directory", "step", "epoch", *lacking]].dropna(subset=lacking, how="all")
                added.append(more.assign(directory=to))
        by_run.pop(source, None)
    if by_run:
        rows = pd.concat([*by_run.values(), *added], ignore_index=True)
    return runs.drop(twice.index).reset_index(drop=True), rows


def _metrics(columns: Iterable[Any], measured: bool) -> list[str]:
    """Return the columns of metrics, conventions among them: training's own, or those of `fsamlab measure`."""
    return [str(c) for c in columns if "/" in str(c) and str(c).startswith("measured/") is measured]


def _alike(first: dict[Any, Any], second: dict[Any, Any], measured: bool) -> bool:
    """Return whether each convention that the first run has is the same in the second."""
    prefix = "measured/diagnostics/" if measured else "diagnostics/"
    keys = [key for key, value in first.items() if str(key).startswith(prefix) and not _missing(value)]
    return all(first[key] == second[key] for key in keys)


def _missing(value: Any) -> bool:
    return bool(value is None or value != value)
