"""The verdicts on claims as a figure: paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter, SymmetricalLogLocator

from fsamlab.figures.canvas import TWO_COLUMNS, look
from fsamlab.results.verdicts import FAILS, HOLDS, UNDECIDED, Verdict

WIDE = 20  # margins; where differences are larger, the axis is logarithmic away from 0, so that small ones are seen
ROW, AROUND = 0.19, 0.62  # height of a claim, and of the axis and title of a panel, in inches
LOOKS = {HOLDS: ("o", "#1b7837"), FAILS: ("X", "#b2182b"), UNDECIDED: ("d", "#6b6b6b")}  # marker, colour


@look()
def claims(found: Sequence[Verdict]) -> Figure:
    """Return a figure of verdicts: the mean paired difference of each claim and its interval; a panel for each unit.

    The grey stripe is the margin, inside of which a difference does not matter. Where differences are far larger than
    the margin, the axis is logarithmic outside of four margins.

    Args:
        found: the verdicts, from `fsamlab.results.verdicts.verdicts`.

    Raises:
        ValueError: there are no verdicts.
    """
    if not found:
        raise ValueError("no verdicts: nothing to draw")
    by_unit = {unit: [one for one in found if one.unit == unit] for unit in dict.fromkeys(one.unit for one in found)}
    heights = [AROUND + ROW * len(group) for group in by_unit.values()]
    figure = Figure(figsize=(TWO_COLUMNS, sum(heights) + 0.3), layout="constrained")
    panels = list(figure.subplots(len(by_unit), 1, squeeze=False, height_ratios=heights).flat)
    for axes, (unit, group) in zip(panels, by_unit.items()):
        _panel(axes, unit, group)
    shown = [verdict for verdict in LOOKS if any(one.verdict == verdict for one in found)]
    keys = [panels[0].plot([], [], LOOKS[v][0], color=LOOKS[v][1], label=v)[0] for v in shown]
    figure.legend(keys, shown, loc="outside lower center", ncols=len(shown))
    return figure


def _panel(axes: Axes, unit: str, group: Sequence[Verdict]) -> None:
    axes.axvline(0, color="black", linewidth=0.6)
    for row, one in enumerate(group):
        marker, colour = LOOKS[one.verdict]
        if one.claim.margin:
            axes.fill_betweenx(
                [row - 0.5, row + 0.5], -one.claim.margin, one.claim.margin, color="#ececec", linewidth=0
            )
        axes.hlines(row, *one.interval, color=colour, linewidth=1.2)
        axes.plot(one.pairs.mean, row, marker, color=colour)
    axes.set_yticks(range(len(group)), [f"{one.claim.name}  (n = {one.pairs.n})" for one in group])
    axes.set_ylim(len(group) - 0.5, -0.5)  # the first claim on top
    axes.grid(axis="y", visible=False)
    sides = {_difference(one) for one in group}
    side = sides.pop() if len(sides) == 1 else "left side − right side"
    text, margin = f"{side}, {unit}" if unit not in ("", "-") else side, max(one.claim.margin for one in group)
    largest = max((abs(end) for one in group for end in one.interval if not isnan(end)), default=0.0)
    if margin and largest > WIDE * margin:
        linear = 4 * margin
        steps = (1, 2, 5) if largest < 100 * linear else (1,)  # of the ticks in each power of ten
        axes.set_xscale("symlog", linthresh=linear, linscale=1.5)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=steps))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        text += f" (logarithmic beyond ±{linear:g})"
    axes.set_xlabel(text)


def _difference(one: Verdict) -> str:
    """Return what the difference is, in the names of the groups."""
    claim = one.claim
    if claim.b is None:
        return f"{claim.a} − {claim.factor:g}"
    return f"{claim.a} − {'' if claim.factor == 1 else f'{claim.factor:g} '}{claim.b}"
