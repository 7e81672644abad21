"""The rows of metrics.jsonl: reading them, and mending a file with damaged lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fsamlab.rundir.row_file import Rows

DAMAGED_ROWS = "metrics.jsonl.damaged"


def open_rows(directory: Path) -> Rows:
    """Return the rows of metrics.jsonl. An unfinished last line (the run writes, or was killed) is left out.

    Raises:
        Damaged: a finished line is not a JSON object with a step.
    """
    return Rows.of_file(directory / "metrics.jsonl")


def read_rows(directory: Path) -> list[dict[str, float]]:
    """Return the rows of :func:`open_rows` as a list, for a file that fits into the memory."""
    return list(open_rows(directory))


class Mended:
    """The content of a metrics.jsonl in pieces, with blanks in place of the damaged lines; the length stays the same.

    A line is damaged when it is not a JSON object with a step above the step of the row before. The blanks go to the
    end of the line before (for a damaged first line: to the start of the line after), where JSON allows blanks. The
    length must stay, because the checkpoint stores the length of its rows in bytes.

    Attributes:
        damaged: the damaged lines by their numbers, counted from 1; complete after the last piece.
        num_rows: the number of whole lines so far.
    """

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file, self._left = file, length
        self.damaged: dict[int, bytes] = {}
        self.num_rows = 0

    def __iter__(self) -> Iterator[bytes]:
        last = float("-inf")
        number = 0
        while self._left and (line := self._file.readline(self._left)):
            self._left -= len(line)
            number += 1
            step = _step(line)
            if step is not None and step > last and line.endswith(b"\n"):
                # the line break of a row is written with the next row: until then blanks may have to stand before it
                yield b"\n" + line[:-1] if self.num_rows else line[:-1]
                self.num_rows += 1
                last = step
            else:
                self.damaged[number] = line.removesuffix(b"\n")
                yield b" " * len(line)
        if self.num_rows:
            yield b"\n"


def _step(line: bytes) -> float | None:
    """Return the step of a row; None where the line is not a row."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return float(step) if isinstance(step, int | float) and not isinstance(step, bool) else None
