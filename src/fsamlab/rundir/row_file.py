"""The rows of a metrics.jsonl as a sequence, whose rows stay in the file when the file is large.

As a dictionary a row takes several times its length in the file: the rows of a file of 500 MB would take 3 GB. Here a
file is read line by line, and every line is checked. Of a large file only place, step and kind of each row stay in
memory, 20 bytes for each row; a row is read again when it is asked for.
"""

from __future__ import annotations

import os
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

from fsamlab.rundir.reading import NUMBER
from fsamlab.storage.reading import JsonLines, damaged, parsed_line

Row = dict[str, Any]
SMALL = 2**20  # bytes of a file whose rows stay in memory
BLOCK = 2**18  # bytes that are read at once
REQUIRED = {"step": NUMBER}


class Rows(Sequence[Row]):
    """Rows of metrics: first those of a file, then those that were added.

    The file stays open as long as this object lives. So all rows are those of one moment, also if a run that resumes
    replaces the file meanwhile.

    Attributes:
        kinds: {the keys of a row: number of the kind}, in the order of first appearance.
        kind_of: the kind of each row.
        steps: the step of each row.
        last_step: the largest step; 0 without rows.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.kinds: dict[tuple[str, ...], int] = {}
        self.kind_of = array("I")
        self.steps = array("d")
        self.last_step: float = 0
        self._path = Path()
        self._file = -1
        self._places = array("Q", [0])  # where each row of the file begins, and where the last one ends
        self._added: list[Row] = []
        for row in rows:
            self.add(row)

    @classmethod
    def of_file(cls, path: Path) -> Rows:
        """Return the rows of a file, without an unfinished last line; no rows where the file does not exist.

        Raises:
            Damaged: a finished line is not a JSON object with a step, or the file cannot be read.
        """
        found = cls()
        with JsonLines(path, REQUIRED) as lines:
            if lines.size <= SMALL:
                for row, _ in lines:
                    found.add(row)
                return found
            found._path = path
            found._file = os.dup(lines.fileno())
            weakref.finalize(found, os.close, found._file)
            for row, end in lines:
                found._note(row)
                found._places.append(end)
        return found

    def add(self, row: Row) -> None:
        """Add a row, which stays in memory."""
        self._note(row)
        self._added.append(row)

    def _note(self, row: Row) -> None:
        self.kind_of.append(self.kinds.setdefault(tuple(row), len(self.kinds)))
        self.steps.append(row["step"])
        self.last_step = max(self.last_step, row["step"])

    def __len__(self) -> int:
        return len(self.kind_of)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        in_file = len(self._places) - 1
        return self._added[number - in_file] if number >= in_file else next(self._read(number, number + 1))

    def __iter__(self) -> Iterator[Row]:
        return self.since(0)

    def since(self, first: int) -> Iterator[Row]:
        """Yield the rows from number `first` on, one after another."""
        in_file = len(self._places) - 1
        while first < in_file:
            end = min(in_file, max(first + 1, bisect_right(self._places, self._places[first] + BLOCK) - 1))
            yield from self._read(first, end)
            first = end
        yield from islice(self._added, first - in_file, None)

    def _read(self, first: int, end: int) -> Iterator[Row]:
        """Yield rows of the file from number `first` to the number before `end`."""
        start, stop = self._places[first], self._places[end]
        content = os.pread(self._file, stop - start, start)
        for line in content.split(b"\n")[: end - first]:
            row, wrong = parsed_line(line, REQUIRED)
            if row is None or len(content) < stop - start:
                raise damaged(self._path, f"has changed while it was read: {wrong}", "give the command again")
            yield row
