"""Run directories -> one tidy frame (a row each) -> means and spreads over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fsamlab.files import read_json
from fsamlab.identity import NEUTRAL
from fsamlab.measure import latest, read_measurements
from fsamlab.record import read_rows
from fsamlab.sweep.runs import current_status

FIRST = ("optimizer.name", "model.name", "data.name")  # what names a method, before what refines it


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def collect(directories: Iterable[Path]) -> pd.DataFrame:
    """Return one row for each run: config keys (dotted), summary keys (with slashes), status, directory.

    What `fsamlab measure` found at a run's last measured step is there as `measured/...`.
    """
    rows: list[dict[str, Any]] = []
    for directory in directories:
        row: dict[str, Any] = {"directory": str(directory)}
        if (directory / "config.yaml").exists():
            row.update(flatten(yaml.safe_load((directory / "config.yaml").read_text())))
        row.update(read_json(directory / "summary.json") or {})
        row.update({f"measured/{key}": value for key, value in latest(directory).items()})
        status = current_status(directory)
        rows.append({**row, "status": status["status"], "exception": status.get("exception")})
    return pd.DataFrame(rows)


def collect_rows(directories: Iterable[Path]) -> pd.DataFrame:
    """Return one row for each row of metrics.jsonl, in order, with the run's `directory` in the first column.

    What `fsamlab measure` found at a step is a row of its own, its keys as `measured/...`.
    """
    rows: list[dict[str, Any]] = []
    for directory in directories:
        rows += [{"directory": str(directory), **row} for row in read_rows(directory)]
        for row in read_measurements(directory):
            values = {f"measured/{key}": value for key, value in row.items() if "/" in key}
            rows.append({"directory": str(directory), "step": row["step"], "epoch": row["epoch"], **values})
    return pd.DataFrame(rows)


def setting_keys(frame: pd.DataFrame) -> list[str]:
    """Return the config keys of a frame that can change the trained weights, seeds left out; FIRST come first."""
    dotted = [c for c in frame.columns if "." in str(c) and "/" not in str(c)]
    ordered = [c for c in FIRST if c in dotted] + sorted(set(dotted) - set(FIRST))
    return [c for c in ordered if c not in NEUTRAL and c.split(".")[0] not in NEUTRAL]


def varied_keys(frame: pd.DataFrame) -> list[str]:
    """Return the fewest config keys that tell the settings of a frame apart, seeds left out.

    A key that follows from those before it (rho, where each method has its own) is left out.
    """
    kept = ["optimizer.name"]
    groups = frame["optimizer.name"].nunique()
    for key in [key for key in setting_keys(frame) if key != kept[0]]:
        parts = frame[[*kept, key]].astype(str).drop_duplicates()
        if len(parts) > groups:
            kept, groups = [*kept, key], len(parts)
    return kept


def by_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each setting: n, mean and standard deviation (n - 1) of the accuracies, relative step time.

    `step_vs_sgd` is the median time of a step over that of plain SGD in the same remaining setting.
    """
    finished = frame[frame["status"] == "finished"]
    if finished.empty:
        return pd.DataFrame()
    keys = varied_keys(finished)
    rows = []
    for values, runs in finished.groupby(keys, sort=False, dropna=False):
        row: dict[str, Any] = dict(zip(keys, values if isinstance(values, tuple) else (values,)))
        row["n"] = len(runs)
        for metric in ("best/test/acc1", "final/test/acc1"):
            if metric in runs and runs[metric].notna().any():
                row[f"{metric} mean"], row[f"{metric} std"] = runs[metric].mean(), runs[metric].std(ddof=1)
        row["step_ms"] = runs["cost/step_ms"].median()
        rows.append(row)
    table = pd.DataFrame(rows)
    others = [k for k in keys if not k.startswith("optimizer.")]  # SGD has no rho to agree in
    sgd = table[table["optimizer.name"] == "sgd"] if "optimizer.name" in table else table.iloc[:0]
    ratios = []
    for _, setting in table.iterrows():
        same = sgd[(sgd[others] == setting[others]).all(axis=1)] if others else sgd
        ratios.append(setting["step_ms"] / same["step_ms"].iloc[0] if len(same) else float("nan"))
    return table.assign(step_vs_sgd=ratios)
