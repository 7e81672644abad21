"""The look of each method, the same in the report, the figures, the notebooks and W&B.

Colours have a contrast of at least 3:1 (WCAG 2.1, graphics) on white and on the dark background of the report. If a
colour-blind reader may confuse the colours of two methods, the methods have different dashes and markers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LIGHT_GROUND, DARK_GROUND = "#ffffff", "#16181d"


@dataclass(frozen=True)
class Style:
    """How a method is drawn.

    Attributes:
        label: name of the method in texts.
        colour: `#rrggbb`.
        dash: lengths of strokes and gaps in points, () for a solid line.
        marker: a marker of matplotlib: a letter, or a sign of its mathematical texts.
    """

    label: str
    colour: str
    dash: tuple[float, ...]
    marker: str


SOLID, DASHED, DOTTED, DASH_DOT = (), (5.0, 3.0), (1.5, 2.0), (6.0, 2.0, 1.5, 2.0)
LONG, SHORT = (9.0, 3.0), (3.0, 1.5)
DASH_DOT_DOT = (6.0, 2.0, 1.5, 2.0, 1.5, 2.0)
GREY, BLUE, GREEN, VERMILION, GOLD = "#7a7a7a", "#0072b2", "#009e73", "#d55e00", "#b58900"
PURPLE, PINK, TEAL, INDIGO, BROWN = "#8f5fd0", "#d6498f", "#00959f", "#5b6ee1", "#9a6a3c"
PALETTE = (VERMILION, BLUE, GREEN, GOLD, PURPLE, PINK, TEAL, INDIGO, BROWN, GREY)  # for groups of several methods

METHODS: dict[str, Style] = {
    "sgd": Style("SGD", GREY, SOLID, "s"),
    "sgd_2x": Style("SGD, 2x epochs", GREY, DASHED, "D"),
    "adamw": Style("AdamW", GREY, DOTTED, "v"),
    "sam": Style("SAM", BLUE, SOLID, "o"),
    "sam_rescaled": Style("SAM, rescaled", TEAL, DASH_DOT, "1"),
    "gsam": Style("GSAM", BLUE, SHORT, "2"),
    "wsam": Style("WSAM", BLUE, DASH_DOT, "3"),
    "looksam": Style("LookSAM", TEAL, LONG, "4"),
    "ae_sam": Style("AE-SAM", BLUE, DASH_DOT_DOT, r"$\ominus$"),
    "unified_sam": Style("Unified SAM", BROWN, SOLID, r"$\oplus$"),
    "le_sam": Style("LE-SAM", GREEN, DASH_DOT_DOT, r"$\otimes$"),
    "multistep_sam": Style("Multistep-SAM", INDIGO, SOLID, r"$\blacktriangle$"),
    "lookbehind": Style("Lookbehind-SAM", BROWN, DASHED, r"$\triangleleft$"),
    "esam_swp": Style("ESAM, SWP alone", VERMILION, DOTTED, r"$\boxtimes$"),
    "esam": Style("ESAM", INDIGO, SHORT, r"$\bowtie$"),
    "rwp": Style("RWP", VERMILION, DASH_DOT_DOT, r"$\boxplus$"),
    "m_rwp": Style("m-RWP", TEAL, DASH_DOT_DOT, r"$\boxminus$"),
    "asam": Style("ASAM", GREEN, LONG, "^"),
    "fisher_sam": Style("FisherSAM", GREEN, SHORT, "H"),
    "usam": Style("USAM", BROWN, SHORT, "+"),
    "msam": Style("MSAM", BROWN, DASH_DOT_DOT, r"$\bigstar$"),
    "sam_on": Style("SAM-ON", BROWN, LONG, "x"),
    "fsam": Style("F-SAM", VERMILION, SOLID, "P"),
    "fsam_quarter": Style("F-SAM, quarter ascent", VERMILION, SHORT, r"$\diamondsuit$"),
    "fasam": Style("F-ASAM", GOLD, DASHED, "*"),
    "friendly_fisher_sam": Style("Friendly FisherSAM", GOLD, LONG, r"$\clubsuit$"),
    "sam_noise_ema": Style("SAM, noise component (EMA)", VERMILION, DASH_DOT, r"$\spadesuit$"),
    "vasso": Style("VaSSO", BROWN, DASH_DOT, r"$\heartsuit$"),
    "sam_full": Style("SAM-full", PURPLE, LONG, "<"),
    "sam_full_ema": Style("SAM-full (EMA)", PURPLE, DASHED, ">"),
    "sam_component": Style("SAM, full component", PURPLE, DOTTED, "8"),
    "sam_noise": Style("SAM, noise component", PINK, DASH_DOT, "X"),
    "sam_db": Style("SAM-db", TEAL, SHORT, "h"),
    "sam_batch": Style("SAM, other batch size", INDIGO, DASH_DOT, "p"),
    "random": Style("random direction", BROWN, DOTTED, "d"),
}
SPARE_COLOURS = (INDIGO, TEAL, PINK, BROWN, GREEN, GOLD, PURPLE)
SPARE_DASHES = ((9.0, 2.0, 1.5, 2.0, 1.5, 2.0), (3.0, 4.0), (12.0, 2.0))
SPARE_MARKERS = ("1", "2", "3", "4", "+", "x")


def style(method: str) -> Style:
    """Return the look of a method. The look of a method that METHODS does not have follows from its name."""
    if method in METHODS:
        return METHODS[method]
    number = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
    dash, marker = SPARE_DASHES[number // 7 % len(SPARE_DASHES)], SPARE_MARKERS[number // 21 % len(SPARE_MARKERS)]
    return Style(method, SPARE_COLOURS[number % 7], dash, marker)


def colour(method: str) -> str:
    """Return the colour of a method, `#rrggbb`."""
    return style(method).colour


def label(method: str) -> str:
    """Return the name of a method in texts."""
    return style(method).label
