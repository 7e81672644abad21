"""Reads a run directory into one row of config and summary, and into its rows of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.metrics import EVALUATED
from fsamlab.rundir.find import current_status, read_whole
from fsamlab.rundir.measurements import latest, latest_evaluations, read_measurements
from fsamlab.rundir.reading import read_config, read_summary
from fsamlab.rundir.rows import read_rows

Row = dict[str, Any]


@dataclass(frozen=True)
class RunRows:
    """The rows of one run.

    Attributes:
        metrics: the rows of metrics.jsonl.
        measured: the rows of `fsamlab measure`, with keys `measured/...`.
        damage: a line for each file that cannot be read, with the reason. The content of the file is left out.
    """

    metrics: list[Row]
    measured: list[Row]
    damage: list[str]

    @property
    def all(self) -> list[Row]:
        """The rows of training, then the rows of `fsamlab measure`."""
        return [*self.metrics, *self.measured]


def collect(directories: Iterable[Path]) -> pd.DataFrame:
    """Return one row for each run: config keys (with dots), summary keys (with slashes), status, directory.

    The values that `fsamlab measure` found at the last measured step of a run have the keys `measured/...`, those that
    `fsamlab evaluate` found on another data set `evaluated/SET/...`.
    """
    return pd.DataFrame([collect_run(directory) for directory in directories])


def collect_run(directory: Path) -> Row:
    """Return the row of a run in :func:`collect`.

    The content of a damaged file is left out. The `status` is then `damaged`, and `exception` names the file and what
    to do.
    """
    damage: list[str] = []
    row: Row = {"directory": str(directory)}
    if (directory / "config.yaml").exists():
        row.update(flatten(read_whole(read_config, directory, damage) or {}))
    row.update(read_whole(read_summary, directory, damage) or {})
    row.update({f"measured/{key}": value for key, value in (read_whole(latest, directory, damage) or {}).items()})
    row.update({f"{EVALUATED}{k}": v for k, v in (read_whole(latest_evaluations, directory, damage) or {}).items()})
    status = current_status(directory)
    row.update({f"task/{key}": value for key, value in (status.get("task") or {}).items()})
    row.update({key: status.get(key) for key in ("run_id", "status", "exception")})
    if damage:
        words = [str(status["exception"])] if status["status"] == "damaged" else []
        row.update(status="damaged", exception="; ".join([*words, *damage]))
    return row


def read_run_rows(directory: Path) -> RunRows:
    """Return the rows of a run. A damaged file raises no error, so that other runs can be shown; it is named."""
    damage: list[str] = []
    metrics = read_whole(read_rows, directory, damage) or []
    measured = read_whole(read_measurements, directory, damage) or []
    return RunRows(metrics, [measured_row(row) for row in measured], damage)


def measured_row(row: Row) -> Row:
    """Return a row of `fsamlab measure` in the form of a row of training: step, epoch, and keys `measured/...`."""
    values = {f"measured/{key}": value for key, value in row.items() if "/" in key}
    return {"step": row["step"], "epoch": row["epoch"], **values}


def by_step(measured: Sequence[Row]) -> list[Row]:
    """Return one row for each measured step. If a value was measured twice at a step, the newest value counts."""
    found: dict[Any, Row] = {}
    for row in measured:
        found.setdefault(row["step"], {}).update(row)
    return list(found.values())


def flatten(node: dict[str, Any], prefix: str = "") -> Row:
    """Return nested dictionaries as one dictionary with dotted keys."""
    flat: Row = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat
