"""Reads a run directory into one row of config and summary, and into its rows of metrics."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.config import MISSING, SCHEMAS
from fsamlab.metrics import EVALUATED
from fsamlab.rundir.find import current_status, read_whole
from fsamlab.rundir.measurements import latest, latest_evaluations, read_measurements
from fsamlab.rundir.reading import read_config, read_summary
from fsamlab.rundir.row_file import Row, Rows
from fsamlab.rundir.rows import open_rows


@dataclass(frozen=True)
class RunRows:
    """The rows of one run.

    Attributes:
        metrics: the rows of metrics.jsonl, which stay in the file if the file is large.
        measured: the rows of `fsamlab measure`, with keys `measured/...`.
        damage: a line for each file that cannot be read, with the reason. The content of the file is left out.
    """

    metrics: Rows
    measured: list[Row]
    damage: list[str]

    @property
    def all(self) -> list[Row]:
        """The rows of training, then the rows of `fsamlab measure`."""
        return [*self.metrics, *self.measured]

    def __bool__(self) -> bool:
        """Whether the run has any rows."""
        return bool(self.metrics or self.measured)


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
        config = flatten(read_whole(read_config, directory, damage) or {})
        missing = {k: v for k, v in of_earlier_versions().items() if k not in config} if config else {}
        row.update({**config, **missing})
    row.update({sys.intern(k): v for k, v in (read_whole(read_summary, directory, damage) or {}).items()})
    row.update({f"measured/{key}": value for key, value in (read_whole(latest, directory, damage) or {}).items()})
    row.update({f"{EVALUATED}{k}": v for k, v in (read_whole(latest_evaluations, directory, damage) or {}).items()})
    status = current_status(directory)
    row.update({f"task/{key}": value for key, value in (status.get("task") or {}).items()})
    row.update({key: status.get(key) for key in ("run_id", "status", "exception")})
    if damage:
        words = [str(status["exception"])] if status["status"] == "damaged" else []
        row.update(status="damaged", exception="; ".join([*words, *damage]))
    return row


@cache
def of_earlier_versions() -> Row:
    """Return the default of each setting that all options of a group have, with dotted keys.

    A run of an earlier version does not record a setting that was added later. Without the default such a run and a new
    run of the same setting would be two settings in a table, and their seeds would not be averaged.
    """
    found: Row = {}

    def walk(schema: Any, prefix: str) -> None:
        for field in dataclasses.fields(schema):
            made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if dataclasses.is_dataclass(made):
                walk(made, f"{prefix}{field.name}.")
            elif made not in (None, MISSING, dataclasses.MISSING):
                found.update(flatten({field.name: made}, prefix))

    for group, schemas in SCHEMAS.items():
        walk(next(iter(schemas.values())), f"{group}.")
    return found


def read_run_rows(directory: Path) -> RunRows:
    """Return the rows of a run. A damaged file raises no error, so that other runs can be shown; it is named."""
    damage: list[str] = []
    metrics = read_whole(open_rows, directory, damage) or Rows()
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
        else:  # one text for the key in all runs: ten thousand runs have a million keys
            flat[sys.intern(prefix + key)] = tuple(value) if isinstance(value, list) else value
    return flat
