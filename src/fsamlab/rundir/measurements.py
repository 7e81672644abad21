"""The rows that `fsamlab measure` and `fsamlab evaluate` wrote into a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fsamlab.rundir.reading import NUMBER
from fsamlab.storage.reading import read_json_lines

MEASUREMENTS, EVALUATIONS = "measurements", "evaluations"  # folders of a run directory
ROW = {"step": int, "epoch": NUMBER, "measured": str}  # the keys that every row has
ROWS = {MEASUREMENTS: ROW, EVALUATIONS: {**ROW, "data": str}}


def read_all(run: Path, folder: str) -> list[dict[str, Any]]:
    """Return all rows in a folder of a run, sorted by step and time.

    Raises:
        Damaged: a line is not such a row.
    """
    mend = "remove the file and measure or evaluate again"
    rows = [row for path in (run / folder).glob("*.jsonl") for row in read_json_lines(path, ROWS[folder], mend)]
    return sorted(rows, key=lambda row: (row["step"], row["measured"]))


def read_measurements(run: Path) -> list[dict[str, Any]]:
    """Return the rows of all measurements of a run, as :func:`read_all`."""
    return read_all(run, MEASUREMENTS)


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the rows of all evaluations of a run on other data sets, as :func:`read_all`."""
    return read_all(run, EVALUATIONS)


def latest(run: Path) -> dict[str, Any]:
    """Return the newest value of every key at the last measured step of a run; empty without measurements."""
    return _joined(read_measurements(run))


def latest_evaluations(run: Path) -> dict[str, Any]:
    """Return `SET/...` -> value for all data sets that a run was evaluated on; empty without evaluations.

    For each data set the newest value of every key at the last evaluated step counts.
    """
    by_set: dict[str, list[dict[str, Any]]] = {}
    for row in read_evaluations(run):
        by_set.setdefault(row["data"], []).append(row)
    return {k: v for rows in by_set.values() for k, v in _joined(rows).items() if "/" in k}


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in rows:
        if row["step"] == rows[-1]["step"]:
            found.update(row)
    return found
