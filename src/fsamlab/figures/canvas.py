"""Figures of publication size, made without pyplot: no global state changes and no display is needed.

Files are vector graphics with embedded fonts. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsamlab.results.methods import Style

ONE_COLUMN, TWO_COLUMNS = 3.25, 6.75  # widths on a two-column page, in inches
LEGEND_LINE, ACROSS_INCH = 0.15, 15  # height of a line of a legend in inches, and its characters per inch
AXIS_CHARACTERS = 26  # longest line of a label beside an axis of the default height
HEADING, ACROSS = 0.35, 3  # a grid of panels: height of its heading in inches, number of panels in a row
BAND = 0.18  # opacity of a band
RC = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 2.4,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "lines.scale_dashes": False,  # the dashes of a Style are in points
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # TrueType; many submission systems refuse matplotlib's type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "fsamlab",
}
NO_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@contextmanager
def look() -> Iterator[None]:
    """Use matplotlib's defaults and RC while a figure is made or written, and not the user's settings.

    It is also a decorator, `@look()`.
    """
    with matplotlib.style.context(["default", RC]):
        yield


def new(panels: int = 1, height: float = 2.4, rows: int = 1, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure, `height` inches high, and its panels, `rows` rows of `panels` each.

    A figure with one panel in a row is one column wide, any other figure two columns.
    """
    figure = Figure(figsize=(ONE_COLUMN if panels == 1 else TWO_COLUMNS, height), layout="constrained")
    return figure, list(figure.subplots(rows, panels, squeeze=False, sharey=sharey).flat)


def panel_grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with room for a heading, and its `count` panels: ACROSS in a row, each `height` inches high."""
    across = min(ACROSS, count)
    down = math.ceil(count / across)
    figure, panels = new(across, HEADING + down * height, down)
    for spare in panels[count:]:
        spare.set_visible(False)
    return figure, panels[:count]


def dashes(style: Style) -> str | tuple[float, tuple[float, ...]]:
    """Return the dashes of a style in matplotlib's form."""
    return (0, style.dash) if style.dash else "-"


def seeds(counts: Iterable[int], ratio: bool = False) -> str:
    """Return the text of a legend that says what bands and bars are, and over how many seeds.

    Args:
        counts: the number of seeds of each mean.
        ratio: the values are ratios of means, which have no bands and bars.
    """
    low, high = min(counts := list(counts)), max(counts)
    if high == 1:
        return "one seed"
    what = "ratio of the means" if ratio else "mean ± standard deviation"
    return f"{what} over {low if low == high else f'{low} to {high}'} seeds"


def legend_below(figure: Figure, axes: Axes, title: str, columns: int | None = None) -> None:
    """Put the legend of `axes` below all panels. The figure grows by the legend, so the panels keep their height."""
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or next(k for k in range(len(labels), 0, -1) if k == 1 or _fits(labels, k, figure))
    width = int(ACROSS_INCH * figure.get_figwidth())
    title = "\n".join(textwrap.fill(part, width) for part in title.splitlines())
    num_lines = math.ceil(len(labels) / columns) + title.count("\n")
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (num_lines - 1))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title)


def _fits(labels: Sequence[str], columns: int, figure: Figure) -> bool:
    """Return whether a legend with this number of columns fits the width of the figure."""
    deep = math.ceil(len(labels) / columns)
    lengths = [len(re.sub(r"\\[a-z]+", "x", label).replace("$", "")) for label in labels]  # a LaTeX letter is one
    widths = [7 + max(lengths[i : i + deep]) for i in range(0, len(labels), deep)]
    return sum(widths) <= ACROSS_INCH * figure.get_figwidth()


def line(axes: Axes, x: pd.Series, mean: pd.Series, std: pd.Series, look: Style, marker: bool = False) -> None:
    """Draw means, and a band of one standard deviation where it is known; a single point has a bar instead."""
    shape = look.marker if marker or len(x) == 1 else ""
    axes.plot(x, mean, linestyle=dashes(look), marker=shape, color=look.colour, label=look.label)
    # a point between two gaps has no line through it, so it needs a marker
    alone = mean.notna() & mean.shift(1).isna() & mean.shift(-1).isna()
    if alone.any() and not shape:
        axes.plot(x[alone], mean[alone], linestyle="", marker=look.marker, color=look.colour)
    if std.isna().all():
        return
    if len(x) == 1:
        axes.vlines(x, mean - std, mean + std, color=look.colour)
    else:
        axes.fill_between(x, mean - std, mean + std, color=look.colour, alpha=BAND, linewidth=0)


def label_y(axes: Axes, text: str) -> None:
    """Write the label beside an axis, in lines of similar lengths that are not longer than the axis."""
    num_lines = len(textwrap.wrap(text, AXIS_CHARACTERS))
    width = next(w for w in range(1, AXIS_CHARACTERS + 1) if len(textwrap.wrap(text, w)) == num_lines)
    axes.set_ylabel(textwrap.fill(text, width))


def heading(figure: Figure, text: str) -> None:
    """Write a text above all panels. The figure grows by the text, so the panels keep their height."""
    width = int(ACROSS_INCH * figure.get_figwidth())
    text = "\n".join(textwrap.fill(part, width, break_long_words=False) for part in text.splitlines())
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * text.count("\n"))
    figure.suptitle(text, fontsize=7)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .pdf or .svg and return the path; the same figure gives the same bytes.

    Raises:
        ValueError: a suffix that is neither .pdf nor .svg.
    """
    path = Path(path)
    if path.suffix not in NO_DATE:
        raise ValueError(f"{path}: figures are written as .pdf or .svg")
    with look():
        figure.savefig(path, metadata=NO_DATE[path.suffix])
    return path


@dataclass(frozen=True)
class Shown:
    """An object that a notebook displays: a figure as SVG, or a table as Markdown."""

    svg: str | None = None
    markdown: str | None = None

    def _repr_svg_(self) -> str | None:
        return self.svg

    def _repr_markdown_(self) -> str | None:
        return self.markdown

    def __repr__(self) -> str:
        return self.markdown or "a figure"


def show(thing: Figure | str) -> Shown:
    """Return a figure or a Markdown table for the last line of a notebook's cell."""
    if isinstance(thing, str):
        return Shown(markdown=thing)
    buffer = io.StringIO()
    with look():
        thing.savefig(buffer, format="svg", metadata=NO_DATE[".svg"])
    text = buffer.getvalue()
    return Shown(svg=text[text.index("<svg") :])
