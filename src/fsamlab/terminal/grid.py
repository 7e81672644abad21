"""A table of rich that draws thousands of rows fast.

Rich wraps, measures and pads every cell as a text of its own, which takes a millisecond for each row. A cell of one
line in a column with room for the line needs none of this. Rich draws title, headings, caption and one sample row; the
other rows get the borders and the widths of the sample row. The result is what rich draws, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style, StyleType
from rich.table import Table
from rich.text import Text

MARK = "\ue000"  # fills the cells of the sample row: a character for private use, one column wide
NO_LIMIT = 10**6  # a width that no table reaches

Line = tuple[str, StyleType]  # a cell of one line, and its style


def width_of(text: str) -> int:
    """Return the number of columns that a text takes on a screen."""
    return len(text) if text.isascii() and text.isprintable() else cell_len(text)


class Grid(Table):
    """A table whose rows are texts without styles of their own, apart from a style for a whole cell."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [_lines([*column.cells], console, options) for column in self.columns]
        widths = [max((width_of(text) for text, _ in column or ()), default=0) for column in columns]
        sample = self._with_one_row([Text(MARK * width) for width in widths])
        needed = Measurement.get(console, options.update(width=NO_LIMIT), sample).maximum
        if None in columns or not any(widths) or needed > options.max_width:
            yield from super().__rich_console__(console, options)
            return
        line: list[Segment] = []
        for segment in console.render(sample, options):
            line.append(segment)
            if segment.text == "\n":
                found = "".join(one.text for one in line)
                yield from self._body(console, columns, found) if MARK in found else line
                line = []
        yield from line

    def _with_one_row(self, row: Sequence[Text]) -> Table:
        """Return a table with the title, the headings and the caption of this table."""
        found = Table(title=self.title, title_justify=self.title_justify)
        found.caption, found.caption_justify = self.caption, self.caption_justify
        for column in self.columns:
            found.add_column(column.header, justify=column.justify, overflow=column.overflow)
        found.add_row(*row)
        return found

    def _body(self, console: Console, columns: Sequence[list[Line] | None], sample: str) -> Iterator[Segment]:
        """Yield the rows with the borders and the widths of a drawn sample row."""
        border, end = sample[0], sample[-2:]  # the last border and the line break
        widths = [cell_len(cell) - 2 for cell in sample[1:-2].split(border)]  # without the two blanks of the padding
        rights = [column.justify == "right" for column in self.columns]
        for row in zip(*(column or () for column in columns)):
            text = ""
            for (cell, style), width, right in zip(row, widths, rights):
                cell = cell.rstrip() if right else cell
                blanks = " " * (width - width_of(cell))
                padded = blanks + cell if right else cell + blanks
                if style:
                    yield Segment(f"{text}{border} ")
                    yield Segment(padded, console.get_style(style, default=Style.null()))
                    text = " "
                else:
                    text += f"{border} {padded} "
            yield Segment(text + end[0])
            yield Segment(end[1])


def _lines(cells: Sequence[object], console: Console, options: ConsoleOptions) -> list[Line] | None:
    """Return the cells of a column as lines; None if a cell needs rich: several lines, or styles inside."""
    found: list[Line] = []
    for cell in cells:
        if isinstance(cell, str):
            if cell.isascii() and cell.isprintable() and "[" not in cell and ":" not in cell:  # no markup, no emoji
                found.append((cell, ""))
                continue
            cell = console.render_str(cell, highlight=False, markup=options.markup)
        if not isinstance(cell, Text) or cell.spans or not cell.plain.isprintable():
            return None
        if cell.justify is not None or cell.overflow is not None or cell.no_wrap is not None:
            return None
        found.append((cell.plain, cell.style))
    return found
