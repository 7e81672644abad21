"""The output of `fsamlab evaluate`: corruptions by severity for one run, the means for several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fsamlab.config.corrupted import EXTRA, SEVERITIES, STANDARD
from fsamlab.metrics import of
from fsamlab.rundir.find import settings_of
from fsamlab.rundir.measurements import EVALUATIONS
from fsamlab.terminal.tables import Column, table
from fsamlab.terminal.text import counted, percent, project_relative, quantity

OVERALL = ("acc1", "acc5", "ece", "mce", "loss")  # the columns for several runs, as far as they are there


def print_evaluations(rows: Mapping[Path, dict[str, Any]], screen: Console) -> None:
    """Print the rows of runs on one data set."""
    if len(rows) == 1:
        screen.print(_of_one(*next(iter(rows.items())), screen))
    elif rows:
        screen.print(_means(rows, screen))
    if rows:
        first = project_relative(next(iter(rows)) / EVALUATIONS)
        others = f" and those of {counted(len(rows) - 1, 'other run')}" if len(rows) > 1 else ""
        screen.print(f"rows: {first}{others}", soft_wrap=True)


def _shown(key: str, value: Any) -> str:
    return quantity(value, of(key).percent) if isinstance(value, int | float) else "-"


def _means(rows: Mapping[Path, dict[str, Any]], screen: Console) -> Table:
    settings, data = settings_of(list(rows)), next(iter(rows.values()))["data"]
    names = [key for key in OVERALL if any(f"{data}/{key}" in row for row in rows.values())]
    columns = [
        Column("run", names=True),
        *([Column("setting")] if any(settings) else []),
        Column("checkpoint"),
        *(Column(f"{key}, %" if of(f"{data}/{key}").percent else key, right=True) for key in names),
    ]
    lines = [
        [run.name, *([setting] if any(settings) else []), f"{row['checkpoint']}, step {row['step']}"]
        + [_shown(f"{data}/{key}", row.get(f"{data}/{key}")) for key in names]
        for (run, row), setting in zip(rows.items(), settings)
    ]
    return table(columns, lines, screen.width, f"Evaluated on {data}")


def _of_one(run: Path, row: dict[str, Any], screen: Console) -> Table:
    data, found = row["data"], row["by_severity"]
    title = f"{run.name}, {row['checkpoint']} (step {row['step']}) on {data}"
    if "" in found:
        values = {key: value for key, value in row.items() if key.startswith(f"{data}/")}
        lines = [[key, _shown(key, value) if isinstance(value, float) else str(value)] for key, value in values.items()]
        return table([Column(""), Column("value", right=True)], lines, screen.width, title)
    columns = [Column("accuracy, %"), *(Column(f"severity {s}", right=True) for s in SEVERITIES)]
    columns += [Column("mean", right=True), Column("ece, %", right=True, rank=1)]
    columns += [Column("ce, %", right=True, rank=2)] if data == "imagenet_c" else []
    names = [name for name in (*STANDARD, *EXTRA) if name in found]
    lines = [_line(row, name, [one.get("acc1") for one in found[name]]) for name in names]
    if f"{data}/acc1" in row:
        means = [row.get(f"{data}/severity_{s}/acc1") for s in SEVERITIES]
        lines.append(_line(row, "", means, "mean of the 15 standard"))
    if f"{data}/extra/acc1" in row:
        lines.append(_line(row, "extra", [None] * len(SEVERITIES), "mean of the 4 extra"))
    return table(columns, [line[: len(columns)] for line in lines], screen.width, title)


def _line(row: dict[str, Any], name: str, accuracies: Sequence[float | None], title: str = "") -> list[str]:
    at = "/".join(part for part in (row["data"], name) if part)
    relative = row.get(f"{at}/ce", row.get(f"{at}/mce"))
    values = [row.get(f"{at}/acc1"), row.get(f"{at}/ece"), relative]
    return [title or name, *map(percent, accuracies), *map(percent, values)]
