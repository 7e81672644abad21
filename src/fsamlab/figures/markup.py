"""Tables as Markdown or as LaTeX. The cells are given as Markdown: bold is `**...**`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

LATEX = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"},
}


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], num_text: int = 1) -> str:
    """Return a Markdown table; all columns after the first `num_text` are aligned to the right."""
    rules = ["---" if i < num_text else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *lines))


def latex(header: Sequence[str], lines: Sequence[Sequence[str]], num_text: int = 1) -> str:
    """Return a LaTeX table (package booktabs), aligned like the Markdown table."""
    first, *others = (" & ".join(map(latex_cell, line)) + r" \\" for line in (header, *lines))
    begin = rf"\begin{{tabular}}{{{'l' * num_text}{'r' * (len(header) - num_text)}}}"
    return "\n".join([begin, r"\toprule", first, r"\midrule", *others, r"\bottomrule", r"\end{tabular}"])


def latex_cell(text: str) -> str:
    """Return the text of a cell for LaTeX, with special characters escaped."""
    bold = re.fullmatch(r"\*\*(.*)\*\*(.*)", text)
    if bold:
        return rf"\textbf{{{latex_cell(bold[1])}}}{latex_cell(bold[2])}"
    return "".join(LATEX.get(character, character) for character in text)


FORMS: dict[str, Callable[..., str]] = {"markdown": markdown, "latex": latex}
