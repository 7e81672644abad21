"""The table at the end of a sweep: what came out, what failed, where it lies, what to try next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from fsamlab.door import project_relative
from fsamlab.measure import FOLDER, latest
from fsamlab.report.style import METHODS
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.results import ACCURACIES, by_setting, collect, own_n, plain, tied_notes
from fsamlab.sweep.runs import current_status, why_unfinished
from fsamlab.terminal import console, fixed, percent_spread


def settings_table(frame: pd.DataFrame) -> Table:
    """Return the accuracies and costs by setting: methods in the order of their styles, then what varies by value.

    A mean over fewer than n runs has its own n beside it.
    """
    table = Table(title="Test accuracy in %, mean ± standard deviation over seeds", title_justify="left")
    settings = by_setting(frame)
    keys = list(settings.columns[: settings.columns.get_loc("n")])
    for key in keys:
        table.add_column(key.removesuffix(".name"))
    for column in ("n", "at best validation epoch", "at the end", "time per step", "vs SGD", "total"):
        table.add_column(column, justify="right")
    for row in sorted(settings.to_dict("records"), key=lambda row: [place(key, row[key]) for key in keys]):
        accuracies = [accuracy(row, metric) for metric in ACCURACIES]
        ratios = [fixed(row[c], 2, "x") for c in ("step_vs_sgd", "total_vs_sgd")]
        step = fixed(row["step_ms"], 1, " ms")
        table.add_row(*(plain(row[k]) for k in keys), str(row["n"]), *accuracies, step, *ratios)
    return table


def print_settings(frame: pd.DataFrame, screen: Console) -> None:
    """Print the table of the finished runs, if there are any, and which settings change together."""
    if (frame["status"] == "finished").any():
        screen.print(settings_table(frame))
        for note in tied_notes(frame):
            screen.print(f"note: {note}", soft_wrap=True)


def accuracy(row: dict[Any, Any], metric: str) -> str:
    """Return the mean and deviation of a setting of `by_setting`, with its own n where that is not the setting's."""
    n = row.get(f"{metric} n", 0)
    own = own_n(int(n), row["n"]) if n > 0 else ""
    return percent_spread(row.get(f"{metric} mean"), row.get(f"{metric} std")) + own


def place(key: str, value: Any) -> tuple[int, float, str]:
    """Return where a value of a config key comes: methods as in the style's table, numbers by size, null first."""
    if key == "optimizer.name":
        return (list(METHODS).index(value) if value in METHODS else len(METHODS), 0.0, str(value))
    if value is None or value != value:
        return (0, 0.0, "")
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


HEADLINES = (
    "sharpness/one_step",
    "sharpness/m_sharpness",
    "sharpness/worst_case",
    "curvature/lambda_max",
    "curvature/trace",
    "perturbation/cos_batch_full",
    "perturbation/cos_ema_full",
    "noise/scale",
)


def print_measurements(runs: Sequence[Path], screen: Console) -> None:
    """Print what `fsamlab measure` has found: all of it for one run, the headlines for several."""
    rows = {run: latest(run) for run in runs}
    if len(rows) == 1:
        ((run, row),) = rows.items()
        table = Table(title=f"{run.name}, step {row['step']}", title_justify="left")
        table.add_column("")
        table.add_column("value", justify="right")
        for key, value in row.items():
            if "/" in key:
                table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        screen.print(table)
    elif rows:
        keys = [key for key in HEADLINES if any(key in row for row in rows.values())]
        table = Table(title="Measured", title_justify="left")
        for column in ("run", "step", *(key.split("/")[1] for key in keys)):
            table.add_column(column, justify="left" if column == "run" else "right")
        for run, row in rows.items():
            table.add_row(run.name, str(row["step"]), *(f"{row[k]:.4g}" if k in row else "-" for k in keys))
        screen.print(table)
    notes = Counter(row["note"] for row in rows.values() if "note" in row)
    lines = [f"{number} of {len(rows)} runs: {note}" for note, number in notes.items()]
    if rows:
        first = project_relative(next(iter(rows)) / FOLDER)
        lines.append(f"rows: {first}{f' and those of the {len(rows) - 1} others' if len(rows) > 1 else ''}")
    for line in lines:
        screen.print(line, soft_wrap=True)


def print_failures(frame: pd.DataFrame, screen: Console) -> None:
    """Print what did not finish, each with its last line and its log."""
    for _, row in frame[frame["status"] != "finished"].iterrows():
        directory = Path(row["directory"])
        known = isinstance(row["exception"], str)
        reason = row["exception"] if known else why_unfinished(current_status(directory))
        screen.print(f"{row['status']:>9}  {directory.name}: {reason}", style="red", soft_wrap=True)
        if (directory / "run.log").exists():
            screen.print(f"           log: {project_relative(directory / 'run.log')}", soft_wrap=True)


def print_check(sweep_dir: Path, plans: Sequence[JobPlan]) -> int:
    """Print what a launch would run, each job with its status on disk, and a count; return how many are damaged."""
    screen = console()
    counts: Counter[str] = Counter()
    damaged = 0
    for plan in plans:
        state = current_status(plan.directory)
        status = "new" if state["status"] == "queued" else state["status"]
        counts[status] += 1
        screen.print(f"{status:>9}  {plan.run_id}  {' '.join(plan.overrides)}", soft_wrap=True)
        if status == "damaged":
            damaged += 1
            screen.print(f"           {state['exception']}", style="red", soft_wrap=True)
    words = ", ".join(f"{n} {status}" for status, n in counts.items())
    where = project_relative(sweep_dir)
    screen.print(f"{len(plans)} runs below {where}/ are valid: {words}; nothing was started", soft_wrap=True)
    return damaged


def print_sweep(sweep_dir: Path, plans: Sequence[JobPlan]) -> int:
    """Print the end of a sweep; return how many of its runs did not finish."""
    screen = console()
    frame = collect(p.directory for p in plans)
    print_settings(frame, screen)
    print_failures(frame, screen)
    num_failed = int((frame["status"] != "finished").sum())
    where = project_relative(sweep_dir)
    lines = [
        f"{len(frame) - num_failed} of {len(frame)} runs finished; each has its directory below {where}/",
        "next:",
        f"  {f'fsamlab collect {where}':<44} one row per run, as {where}/results.csv",
        f"  {f'fsamlab report {where} --open':<44} tables and curves as one HTML page",
        f"  less {project_relative(Path(frame['directory'].iloc[0]))}/metrics.jsonl",
        "  python launch.py -m optimizer=sam,fsam optimizer.rho=0.05,0.1,0.2,0.4 seed=0,1 name=my_rho_study",
    ]
    for line in lines:
        screen.print(line, soft_wrap=True)
    return num_failed
