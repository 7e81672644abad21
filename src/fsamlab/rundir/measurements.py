"""The rows that `fsamlab measure` wrote into a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fsamlab.rundir.reading import NUMBER
from fsamlab.storage.reading import read_json_lines

FOLDER = "measurements"
ROW = {"step": int, "epoch": NUMBER, "measured": str}  # the keys that every row of a measurement has


def read_measurements(run: Path) -> list[dict[str, Any]]:
    """Return the rows of all measurements of a run, sorted by step and time.

    Raises:
        Damaged: a line is not the row of a measurement.
    """
    mend = "remove the file and measure again"
    rows = [row for path in (run / FOLDER).glob("*.jsonl") for row in read_json_lines(path, ROW, mend)]
    return sorted(rows, key=lambda row: (row["step"], row["measured"]))


def latest(run: Path) -> dict[str, Any]:
    """Return the newest value of every key at the last measured step of a run; empty without measurements."""
    rows = read_measurements(run)
    found: dict[str, Any] = {}
    for row in rows:
        if row["step"] == rows[-1]["step"]:
            found.update(row)
    return found
