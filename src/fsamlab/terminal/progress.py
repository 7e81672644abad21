"""The progress of a run: a bar on a terminal, lines in the log elsewhere, and a table at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from fsamlab.config import Config
from fsamlab.terminal.tables import Column, table
from fsamlab.terminal.text import console, percent, project_relative

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.1
WIDE = 125  # characters that the full bar of a run takes


def text_column(form: str) -> TextColumn:
    """Return a column that shows a text literally."""
    return TextColumn(form, markup=False)


class Training(Protocol):
    """The attributes of a trainer that a progress display reads."""

    @property
    def step(self) -> int:
        """Number of optimizer steps made."""

    @property
    def last_step(self) -> int:
        """Number of optimizer steps in the whole training."""

    @property
    def epoch(self) -> int:
        """Number of whole epochs made."""

    @property
    def epochs(self) -> int:
        """Number of epochs in the whole training."""

    @property
    def last_row(self) -> dict[str, float]:
        """The newest row of metrics; empty before the first row."""


class Progress(Protocol):
    """Shows the progress of a run."""

    def update(self, trainer: Training) -> None:
        """Show the present state of the trainer. The loop calls this after each step, so the call must be cheap."""


class _Lines:
    """One log line for each evaluation, at most one in ten seconds, and always one for the last evaluation."""

    def __init__(self) -> None:
        self.last_step, self.last_time = -1, 0.0

    def update(self, trainer: Training) -> None:
        row = trainer.last_row
        if not row or row["step"] == self.last_step or not {"val/acc1", "test/acc1"} & row.keys():
            return
        if time.monotonic() - self.last_time < 10 and trainer.step < trainer.last_step:
            return
        self.last_step, self.last_time = int(row["step"]), time.monotonic()
        log.info("epoch %.4g of %d  %s", row["epoch"], trainer.epochs, describe(row))


class _Bar:
    """A progress bar over the optimizer steps."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self.bar, self.task, self.last_time = bar, task, 0.0

    def update(self, trainer: Training) -> None:
        moment = time.monotonic()
        if moment - self.last_time < REFRESH_SECONDS and trainer.step < trainer.last_step:
            return
        self.last_time = moment
        epoch = f"epoch {trainer.epoch}/{trainer.epochs}"
        self.bar.update(self.task, completed=trainer.step, epoch=epoch, latest=describe(trainer.last_row))


def describe(row: dict[str, float]) -> str:
    """Return loss and accuracies of a row in a few words."""
    words = []
    if "train/loss" in row or "train/loss_perturbed" in row:
        words.append(f"loss {row.get('train/loss', row.get('train/loss_perturbed')):.3f}")
    words += [f"{part} {percent(row[f'{part}/acc1'])} %" for part in ("val", "test") if f"{part}/acc1" in row]
    return "  ".join(words)


@contextmanager
def progress(trainer: Training, title: str, enabled: bool) -> Iterator[Progress]:
    """Show the training: a bar on a terminal; lines in the log elsewhere, or with train.progress=false."""
    screen = console(stderr=True)
    if not (enabled and screen.is_terminal):
        yield _Lines()
        return
    wide = screen.width >= WIDE
    columns = (
        text_column("{task.fields[epoch]}"),
        BarColumn(bar_width=40 if wide else 5),
        MofNCompleteColumn(),
        *([TimeElapsedColumn()] if wide else []),
        TimeRemainingColumn(),
        text_column("{task.fields[latest]}"),
    )
    screen.print(title, style="bold")
    with Bar(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(title, total=trainer.last_step, completed=trainer.step, epoch="", latest="")
        yield _Bar(bar, task)


def print_run(config: Config, directory: Path, summary: dict[str, Any], url: str | None) -> None:
    """Print the summary of one run.

    Args:
        config: the configuration of the run.
        directory: the run directory.
        summary: as in summary.json.
        url: of the run in W&B, if there is one.
    """
    columns = [Column(""), *(Column(c, right=True) for c in ("epoch", "train loss", "val acc %", "test acc %"))]
    rows: list[list[str]] = []
    loss = summary.get("final/train/loss", summary.get("final/train/loss_perturbed"))
    final = (summary["cost/epochs"], loss, summary.get("final/val/acc1"), summary.get("final/test/acc1"))
    shown_loss = "-" if loss is None else f"{loss:.4f}"
    rows.append(["at the end", f"{final[0]:g}", shown_loss, percent(final[2]), percent(final[3])])
    if "best/val/acc1" in summary:
        best = (summary["best/epoch"], summary["best/val/acc1"], summary["best/test/acc1"])
        rows.append(["at the best validation accuracy", f"{best[0]:g}", "", percent(best[1]), percent(best[2])])
    screen = console()
    title = f"{config.optimizer.name} on {config.data.name}, seed {config.seed}"
    screen.print(table(columns, rows, screen.width, title))
    parts = {part: summary[f"cost/{part}_seconds"] for part in ("train", "eval", "diagnostics")}
    times = (
        f"{parts['train']:.0f} s training, {parts['eval']:.0f} s evaluation, {parts['diagnostics']:.0f} s diagnostics"
    )
    screen.print(f"{summary['cost/steps']} steps, {summary['cost/step_ms']:.1f} ms each; {times}")
    screen.print(f"files: {project_relative(directory)}", soft_wrap=True)
    if url is not None:
        screen.print(f"W&B:   {url}", soft_wrap=True)
