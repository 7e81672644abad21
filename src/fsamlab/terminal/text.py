"""Consoles, and the words and numbers on them: the same in every command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from fsamlab.terminal import output
from fsamlab.terminal.tables import told

PLAIN_WIDTH = 1000  # of tables without a terminal and without COLUMNS: wide enough for any table


class _LiteralConsole(Console):
    """Prints names, values and messages literally, with all their brackets and colons."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    @property
    def file(self) -> IO[str]:
        """The stream, made forgiving: the reported work is done, and a full disk must not end the program now."""
        return cast(IO[str], output.Forgiving(cast(TextIO, super().file)))

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as this screen can show it: a replaced character may have another width."""
        return super().render_str(output.as_shown(text, self.encoding), **options)

    def on_broken_pipe(self) -> None:
        raise  # rich would exit with code 1, which means a failed run


def console(*, stderr: bool = False) -> Console:
    """Return a console: coloured and as wide as the terminal; without a terminal plain and as wide as COLUMNS says."""
    plain = _LiteralConsole(stderr=stderr)
    return plain if told(plain) else _LiteralConsole(stderr=stderr, width=PLAIN_WIDTH)


def percent(value: float | None) -> str:
    """Return an accuracy in 0..1 in per cent with two digits; `-` for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def quantity(value: float | None, in_percent: bool) -> str:
    """Return a value of a metric, in per cent or with five significant digits; `-` for None."""
    return "-" if value is None else percent(value) if in_percent else f"{value:.5g}"


def spread(mean: float | None, std: float | None, in_percent: bool = True) -> str:
    """Return `mean ± std`; only the mean where std is None or NaN; `-` where there is no mean.

    In per cent both have two digits. Else the deviation has two significant digits, and the mean as many decimals.
    """
    if mean is None or mean != mean:
        return "-"
    if in_percent:
        return percent(mean) + ("" if std is None or std != std else f" ± {percent(std)}")
    if std is not None and std < 1e-12 * abs(mean):  # all values are equal; only the mean was rounded
        std = 0.0
    if std is None or not 1e-6 < std < 1e5:
        return f"{mean:.4g}" + ("" if std is None or std != std else f" ± {std:.2g}")
    decimals = max(0, 1 - math.floor(math.log10(std)))
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def fixed(value: float, decimals: int, unit: str = "") -> str:
    """Return a number with its unit; `-` for NaN."""
    return "-" if value != value else f"{value:.{decimals}f}{unit}"


def counted(n: int, what: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def project_relative(path: Path) -> str:
    """Return a path as a user would type it: relative to the working directory where the path lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
