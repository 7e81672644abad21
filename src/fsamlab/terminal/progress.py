"""The progress of a run: a bar on a terminal, lines in the log elsewhere, and a table at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
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
from fsamlab.metrics import CLASSIFICATION, Headline
from fsamlab.terminal.tables import Column, table
from fsamlab.terminal.text import console, project_relative, quantity

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
    def headline(self) -> Headline:
        """The headline metric of the task."""

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
        evaluated = {f"{part}/{trainer.headline.name}" for part in ("val", "test")}
        if not row or row["step"] == self.last_step or not evaluated & row.keys():
            return
        if time.monotonic() - self.last_time < 10 and trainer.step < trainer.last_step:
            return
        self.last_step, self.last_time = int(row["step"]), time.monotonic()
        log.info("epoch %.4g of %d  %s", row["epoch"], trainer.epochs, describe(row, trainer.headline))


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
        self.bar.update(
            self.task, completed=trainer.step, epoch=epoch, latest=describe(trainer.last_row, trainer.headline)
        )


def describe(row: Mapping[str, float], headline: Headline = CLASSIFICATION) -> str:
    """Return the training loss and the headline metric of a row in a few words: `loss 0.412  val 83.20 %`."""
    words = []
    if "train/loss" in row or "train/loss_perturbed" in row:
        words.append(f"loss {row.get('train/loss', row.get('train/loss_perturbed')):.3f}")
    name = "" if headline == CLASSIFICATION else f"{headline.name} "
    unit = " %" if headline.percent else ""
    for part in ("val", "test"):
        value = row.get(f"{part}/{headline.name}")
        if value is not None:
            words.append(f"{part} {name}{quantity(value, headline.percent)}{unit}")
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
    headline = Headline.of(summary, "task/")
    name = "acc %" if headline == CLASSIFICATION else headline.heading
    columns = [Column(""), *(Column(c, right=True) for c in ("epoch", "train loss", f"val {name}", f"test {name}"))]

    def line(text: str, epoch: float, loss: str, source: str) -> list[str]:
        values = [summary.get(f"{source}/{part}/{headline.name}") for part in ("val", "test")]
        return [text, f"{epoch:g}", loss, *(quantity(value, headline.percent) for value in values)]

    loss = summary.get("final/train/loss", summary.get("final/train/loss_perturbed"))
    rows = [line("at the end", summary["cost/epochs"], "-" if loss is None else f"{loss:.4f}", "final")]
    if headline.chosen in summary:
        rows.append(line(f"at the best validation {headline.title}", summary["best/epoch"], "", "best"))
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
