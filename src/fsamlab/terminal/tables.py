"""Tables and lines that fit the screen: no word is broken, and the columns that are left out are named."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsamlab.terminal.grid import Grid, width_of

ELSE = "*"  # in a shortened name; a shell expands the star, so the name still finds its directory
TAIL = 12  # characters at the end of a name that are kept: seed and hash of a run
LEAST = 16  # characters of a name that are always kept


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: the name; broken between words on a narrow screen.
        right: whether the cells are numbers, aligned to the right.
        rank: on a narrow screen the columns with the highest rank are left out first; rank 0 is never left out.
        names: whether the cells are names of runs, which are shortened on a narrow screen.
    """

    heading: str
    right: bool = False
    rank: int = 0
    names: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int | None = None, title: str | None = None
) -> Table:
    """Return a table of at most `width` characters, as far as its columns of rank 0 allow.

    On a narrow screen, in this order: headings get more lines, empty columns are left out, names lose the parts that
    all names share, columns are left out by rank, names are shortened.
    """
    body: list[list[str | Text]] = [list(row) for row in rows]
    widths: dict[int, int] = {}  # of the widest cell of a column; there may be thousands of rows
    headings = [c.heading for c in columns]
    kept = list(range(len(columns)))

    def widest(i: int) -> int:
        if i not in widths:
            widths[i] = max((width_of(str(row[i])) for row in body), default=0)
        return widths[i]

    def excess() -> int:
        lines = {i: max(map(cell_len, headings[i].split("\n"))) for i in kept}
        # A column takes a border and two blanks besides its text; the table has one more border.
        return 0 if width is None else sum(3 + max(widest(i), lines[i]) for i in kept) + 1 - width

    def rename(new: Sequence[str], i: int) -> None:
        widths.pop(i, None)
        for row, name in zip(body, new):
            row[i] = name

    if excess() > 0:
        for i in kept:
            longest = max((cell_len(word) for word in headings[i].split()), default=0)
            headings[i] = textwrap.fill(headings[i], max(1, longest, widest(i)), break_long_words=False)
    if excess() > 0:  # break a key of the configuration after its group
        headings = [heading.replace(".", ".\n") for heading in headings]
    if excess() > 0:
        kept = [i for i in kept if not columns[i].rank or any(str(row[i]) not in ("", "-") for row in body)]
    named = [i for i in kept if columns[i].names]
    if excess() > 0:
        for i in named:
            rename(without_common([str(row[i]) for row in body]), i)
    while excess() > 0 and any(columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: columns[i].rank))
    for i in named:
        if (over := excess()) > 0:
            rename([shortened(str(row[i]), widest(i) - over) for row in body], i)
    left_out = [c.heading for i, c in enumerate(columns) if i not in kept]
    found = Grid(title=title, title_justify="left", caption_justify="left")
    if left_out:
        found.caption = f"no room for {', '.join(left_out)}"
    for i in kept:
        found.add_column(headings[i], justify="right" if columns[i].right else "left", overflow="fold")
    for row in body:
        found.add_row(*(row[i] for i in kept))
    return found


def without_common(names: Sequence[str]) -> list[str]:
    """Return the names with `*` in place of the longest shared run of inner parts between hyphens."""
    parts = [name.split("-") for name in names]
    if len({len(p) for p in parts}) != 1:
        return list(names)
    # One pass over the inner parts; the first and the last part stay, because they tell the runs apart.
    best, start = (0, 0), None  # longest run so far as (first, end); first part of the present run
    for at in range(1, len(parts[0])):
        same = at < len(parts[0]) - 1 and len({p[at] for p in parts}) == 1
        start = (at if start is None else start) if same else None
        if start is not None and at + 1 - start > best[1] - best[0]:
            best = (start, at + 1)
    first, last = best
    return ["-".join([*p[:first], ELSE, *p[last:]]) if last else "-".join(p) for p in parts]


def shortened(name: str, width: int) -> str:
    """Return a name with `*` in place of its middle, `width` or LEAST characters long, so that runs stay distinct."""
    width = max(width, LEAST)
    if len(name) <= width:
        return name
    tail = min(TAIL, width // 2)
    return name[: width - tail - len(ELSE)] + ELSE + name[-tail:]


def fitted(names: Sequence[str], width: int) -> list[str]:
    """Return names of at most `width` characters (at least LEAST): first without shared parts, then shortened."""
    if max(map(len, names), default=0) <= width:
        return list(names)
    return [shortened(name, width) for name in without_common(names)]


def told(screen: Console) -> bool:
    """Return whether the width of a screen is known; a log file has no width."""
    return screen.is_terminal or os.environ.get("COLUMNS", "").isdigit()


def wrapped(screen: Console, text: str, hang: int = 11) -> str:
    """Return a sentence in lines of the screen's width; unchanged where the width is not known."""
    if not told(screen):
        return text
    indent = " " * hang
    return textwrap.fill(text, screen.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
