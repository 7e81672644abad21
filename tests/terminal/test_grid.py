"""A table of many rows looks as rich draws it, and rich draws only a few of its rows."""

import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsamlab.terminal.grid import Grid
from fsamlab.terminal.text import _LiteralConsole

PARTS = ["a", "sam-x-s0", "±1.0", "語", "é", "[red]x", ":smile:", " ", "", "a b", "3 min ago", "x\ty", "two\nlines"]
CELLS = st.lists(st.sampled_from(PARTS), max_size=3).map("".join)
STYLED = st.builds(Text, CELLS, style=st.sampled_from(["", "red", "bold blue", "no style"]))


def drawn(cls, headings, rows, rights, console, title=None, caption=None, **options):
    table = cls(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading, right in zip(headings, rights):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=options.pop("encoding", "utf-8"), errors="replace")
    console(file=file, **options).print(table)
    file.flush()
    return raw.getvalue()


@settings(max_examples=40)
@given(data=st.data())
def test_it_looks_as_rich_draws_it(data):
    number = data.draw(st.integers(1, 4))
    headings = data.draw(st.lists(st.sampled_from(["h", "two words", "x\ny", "語"]), min_size=number, max_size=number))
    rows = data.draw(st.lists(st.lists(CELLS | STYLED, min_size=number, max_size=number), max_size=4))
    rights = data.draw(st.lists(st.booleans(), min_size=number, max_size=number))
    terminal = data.draw(st.booleans())
    options = {
        "console": data.draw(st.sampled_from([Console, _LiteralConsole])),
        "title": data.draw(st.sampled_from([None, "a title", "a long title " * 6])),
        "caption": data.draw(st.sampled_from([None, "no room for x"])),
        "width": data.draw(st.sampled_from([10, 20, 40, 1000])),
        "encoding": data.draw(st.sampled_from(["utf-8", "ascii"])),
        "force_terminal": terminal,
        "color_system": "truecolor" if terminal else None,
    }
    assert drawn(Grid, headings, rows, rights, **options) == drawn(Table, headings, rows, rights, **options)


def test_it_is_drawn_fast_whatever_the_number_of_rows(monkeypatch):
    calls = []
    real = Console.render_lines
    monkeypatch.setattr(Console, "render_lines", lambda *args, **options: calls.append(1) or real(*args, **options))
    counts = []
    for number in (10, 100):
        rows = [[f"run-{i}", Text("finished", style="green"), "0.5"] for i in range(number)]
        drawn(Grid, ["run", "status", "loss"], rows, [False, False, True], _LiteralConsole, width=80)
        counts.append(len(calls))
        calls.clear()
    assert counts[0] == counts[1] < 20


@pytest.mark.parametrize(
    ("cell", "width"), [("two\nlines", 80), (Text.from_markup("[red]part[/] of"), 80), ("a" * 50, 30)]
)
def test_what_is_not_simple_is_drawn_by_rich(cell, width):
    pairs = itertools.product((Grid, Table), [["run", cell], ["b", "c"]])
    found = [drawn(cls, ["h", "i"], [row], [False, True], _LiteralConsole, width=width) for cls, row in pairs]
    assert found[:2] == found[2:]
