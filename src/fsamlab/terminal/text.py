"""What a user sees while and after runs train: bars and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from fsamlab.config import Config
from fsamlab.rundir.find import current_status
from fsamlab.terminal import output
from fsamlab.terminal.errors import project_relative
from fsamlab.terminal.tables import Column, fitted, table, told, wrapped

if TYPE_CHECKING:
    from fsamlab.train.trainer import Trainer

log = logging.getLogger(__name__)

PLAIN_WIDTH = 1000  # of tables where there is neither a terminal to ask nor COLUMNS: as wide as they need to be
REFRESH_SECONDS = 0.1
WIDE = 125  # columns that the bar of a run takes in full
BESIDE_NAME = 58  # columns of a running job's line without its name: bar, loss, accuracies, time


class _LiteralConsole(Console):
    """Prints names, values and messages as they are, whatever brackets and colons are in them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    @property
    def file(self) -> IO[str]:
        """The stream, which may be full: what is printed here is about work that has been done."""
        return cast(IO[str], output.Forgiving(cast(TextIO, super().file)))

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as this screen can show it: what an encoding lacks has another width than its stand-in."""
        return super().render_str(output.as_shown(text, self.encoding), **options)

    def on_broken_pipe(self) -> None:
        raise  # rich would end the process with exit code 1, which means a failed run here


def console(*, stderr: bool = False) -> Console:
    """Return a console: coloured and as wide as the terminal; plain without one, and as wide as COLUMNS says."""
    plain = _LiteralConsole(stderr=stderr)
    return plain if told(plain) else _LiteralConsole(stderr=stderr, width=PLAIN_WIDTH)


def _text(form: str) -> TextColumn:
    return TextColumn(form, markup=False)


def percent(value: float | None) -> str:
    """Return an accuracy in 0..1 as per cent with two digits, `-` for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def percent_spread(mean: float | None, std: float | None) -> str:
    """Return `mean ± std` in per cent; the mean alone where there is no deviation (NaN), `-` where there is no mean."""
    if mean is None or mean != mean:
        return "-"
    return percent(mean) + ("" if std is None or std != std else f" ± {percent(std)}")


def fixed(value: float, decimals: int, unit: str = "") -> str:
    """Return a number with its unit, `-` for NaN."""
    return "-" if value != value else f"{value:.{decimals}f}{unit}"


def counted(n: int, what: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


class Progress(Protocol):
    """Shows how far a run is."""

    def update(self, trainer: Trainer) -> None:
        """Show the trainer's present state; called after each step, so it has to be cheap."""


class _Lines:
    """One log line for each evaluation, at most one in ten seconds, and one for the last."""

    def __init__(self) -> None:
        self.last_step, self.last_time = -1, 0.0

    def update(self, trainer: Trainer) -> None:
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

    def update(self, trainer: Trainer) -> None:
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
def progress(trainer: Trainer, title: str, enabled: bool) -> Iterator[Progress]:
    """Show the training: a bar on a terminal, lines in the log elsewhere or with train.progress=false."""
    screen = console(stderr=True)
    if not (enabled and screen.is_terminal):
        yield _Lines()
        return
    wide = screen.width >= WIDE
    columns = (
        _text("{task.fields[epoch]}"),
        BarColumn(bar_width=40 if wide else 5),
        MofNCompleteColumn(),
        *([TimeElapsedColumn()] if wide else []),
        TimeRemainingColumn(),
        _text("{task.fields[latest]}"),
    )
    screen.print(title, style="bold")
    with Bar(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(title, total=trainer.last_step, completed=trainer.step, epoch="", latest="")
        yield _Bar(bar, task)


def print_run(config: Config, directory: Path, summary: dict[str, Any], url: str | None) -> None:
    """Print one run's summary."""
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


class SweepBoard:
    """The jobs of a local multirun while they run: a bar for the whole and a line for each running job.

    Args:
        directories: job index -> run directory.
        names: job index -> what to call it.
    """

    def __init__(self, directories: dict[int, Path], names: dict[int, str]) -> None:
        self.directories = directories
        self.began: dict[int, float] = {}
        self.num_ended = 0
        self.screen = console(stderr=True)
        self.names = names
        self.short = dict(zip(names, fitted(list(names.values()), self.screen.width - BESIDE_NAME)))
        columns = (
            _text("{task.description}"),
            BarColumn(bar_width=30 if self.screen.width >= WIDE else 6),
            _text("{task.fields[text]}"),
        )
        self.bar = Bar(
            *columns,
            TimeElapsedColumn(),
            console=self.screen,
            transient=True,
            disable=not self.screen.is_terminal,
        )
        self.tasks: dict[int, TaskID] = {}

    def __enter__(self) -> SweepBoard:
        self.bar.start()
        self.total = self.bar.add_task("all runs", total=len(self.directories), text="")
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def started(self, index: int) -> None:
        """Show a job that begins."""
        self.began[index] = time.monotonic()
        self.tasks[index] = self.bar.add_task(self.short[index], total=1.0, text="starting")

    def refresh(self, indices: Iterable[int]) -> None:
        """Show how far the running jobs are, from their status files."""
        for index in indices:
            status = current_status(self.directories[index])
            done = status.get("step", 0) / max(1, status.get("last_step", 1))
            self.bar.update(self.tasks[index], completed=done, text=describe(status.get("latest") or {}))

    def ended(self, index: int, exitcode: int) -> None:
        """Print one line for a job that ended."""
        self.num_ended += 1
        self.bar.remove_task(self.tasks.pop(index))
        self.bar.update(self.total, completed=self.num_ended, text=f"{self.num_ended}/{len(self.directories)}")
        status = current_status(self.directories[index])
        if exitcode == 0:
            outcome = describe(status.get("latest") or {})
        elif exitcode < 0:
            outcome = f"killed by {signal.Signals(-exitcode).name}"
        else:
            outcome = f"{status['status']}: {status.get('exception') or 'see its run.log'}"
        seconds = time.monotonic() - self.began[index]
        total = len(self.directories)
        number = f"[{self.num_ended:{len(str(total))}}/{total}] "
        line = f"{number}{self.names[index]}  {seconds:.0f} s  {outcome}"
        if told(self.screen) and len(line) > self.screen.width:
            indent = " " * len(number)
            lines = (f"{number}{self.names[index]}", f"{indent}{seconds:.0f} s  {outcome}")
            line = "\n".join(wrapped(self.screen, text, hang=len(number)) for text in lines)
        self.screen.print(line, soft_wrap=True, style=None if exitcode == 0 else "red")
