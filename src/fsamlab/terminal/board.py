"""The display of a local sweep while its jobs run."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    TaskID,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar

from fsamlab.metrics import Headline
from fsamlab.rundir.find import current_status
from fsamlab.terminal.progress import WIDE, describe, text_column
from fsamlab.terminal.tables import fitted, told, wrapped
from fsamlab.terminal.text import console

BESIDE_NAME = 58  # characters of a job's line besides its name: bar, loss, accuracies, time


class SweepBoard:
    """The jobs of a local sweep while they run: one bar for the sweep, and one line for each running job.

    Args:
        directories: job index -> run directory.
        names: job index -> name on the screen.
    """

    def __init__(self, directories: dict[int, Path], names: dict[int, str]) -> None:
        self.directories = directories
        self.began: dict[int, float] = {}
        self.num_ended = 0
        self.screen = console(stderr=True)
        self.names = names
        self.short = dict(zip(names, fitted(list(names.values()), self.screen.width - BESIDE_NAME)))
        columns = (
            text_column("{task.description}"),
            BarColumn(bar_width=30 if self.screen.width >= WIDE else 6),
            text_column("{task.fields[text]}"),
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
        """Show a job that starts."""
        self.began[index] = time.monotonic()
        self.tasks[index] = self.bar.add_task(self.short[index], total=1.0, text="starting")

    def refresh(self, indices: Iterable[int]) -> None:
        """Show the progress of the running jobs, read from their status files."""
        for index in indices:
            status = current_status(self.directories[index])
            done = status.get("step", 0) / max(1, status.get("last_step", 1))
            self.bar.update(self.tasks[index], completed=done, text=_outcome(status))

    def ended(self, index: int, exitcode: int) -> None:
        """Print one line for a job that has ended."""
        self.num_ended += 1
        self.bar.remove_task(self.tasks.pop(index))
        self.bar.update(self.total, completed=self.num_ended, text=f"{self.num_ended}/{len(self.directories)}")
        status = current_status(self.directories[index])
        if exitcode == 0:
            outcome = _outcome(status)
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


def _outcome(status: dict[str, Any]) -> str:
    """Return the newest loss and headline metric of a run in a few words."""
    return describe(status.get("latest") or {}, Headline.of(status.get("task") or {}))
