"""`fsamlab verdict`: claims about runs, each with its numbers and its verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from fsamlab.config import ConfigError
from fsamlab.results.claims import read_claims
from fsamlab.results.verdict_texts import as_json, cells, law, lines, p_text
from fsamlab.results.verdicts import FAILS, HOLDS, UNDECIDED, Verdict, verdicts
from fsamlab.terminal import output
from fsamlab.terminal.tables import Column, table, wrapped
from fsamlab.terminal.text import console

# Exit codes. 1 is an error and 2 a mistyped option, so that a script can tell both from an answer.
CODES = {HOLDS: 0, FAILS: 3, UNDECIDED: 4}
STYLES = {HOLDS: "green", FAILS: "red", UNDECIDED: "yellow"}


def show_verdicts(path: Path, form: str, drawn: Path | None = None) -> int:
    """Print the verdict on each claim of a file; return the exit code.

    Args:
        path: the file of claims.
        form: `table`, `json` or `markdown`.
        drawn: where to write the figure of the verdicts, .svg or .pdf; None: no figure.

    Returns:
        0 if every claim holds; 3 if a claim does not hold; 4 if no claim is known not to hold, and one is undecided.

    Raises:
        ConfigError: the runs do not allow an answer.
        Damaged: the file is not of the form.
    """
    if drawn is not None and drawn.suffix not in (".svg", ".pdf"):
        raise ConfigError("--figure", str(drawn), "must end in .svg or .pdf")
    claims = read_claims(path)
    found = verdicts(claims)
    if drawn is not None:
        from fsamlab.report import figures  # imports matplotlib

        figures.save(figures.claims(found), drawn)
    code = max((CODES[one.verdict] for one in found), key=[0, 4, 3].index)
    interval = f"{100 * (1 - claims.alpha):g} % interval"
    if form == "json":
        output.show(
            json.dumps({"exit": code, "alpha": claims.alpha, "claims": [as_json(one) for one in found]}, indent=1)
        )
    elif form == "markdown":
        output.show(markdown(found, interval))
    else:
        _print(found, interval, claims.alpha)
    return code


def _print(found: Sequence[Verdict], interval: str, alpha: float) -> None:
    columns = [
        Column("claim"),
        Column("n", right=True),
        Column("mean difference", right=True),
        Column(interval, right=True),
        Column("> 0", right=True, rank=2),
        Column("p holds", right=True, rank=1),
        Column("p does not", right=True, rank=1),
        Column("verdict"),
    ]
    rows: list[list[str | Text]] = [
        [*cells(one), p_text(one.p_holds), p_text(one.p_fails), Text(one.verdict, style=STYLES[one.verdict])]
        for one in found
    ]
    screen = console()
    screen.print(table(columns, rows, screen.width, "Claims, over paired seeds"))
    for line in [*lines(found), law(alpha, len(found))]:
        screen.print(wrapped(screen, line, hang=4), soft_wrap=True)


def markdown(found: Sequence[Verdict], interval: str) -> str:
    """Return the verdicts as a table in Markdown; the column `see` is there if a claim has one."""
    head = ["claim", "in words", "n", "mean difference", interval, "> 0", "unit", "verdict"]
    more = any(one.claim.see for one in found)
    rows = []
    for one in found:
        name, n, mean, between, signs = cells(one)
        words = one.claim.says + (f" ({one.claim.source})" if one.claim.source else "")
        rows.append([f"`{name}`", words, n, mean, between, signs, one.unit, f"**{one.verdict}**"])
        if more:
            rows[-1].append(one.claim.see)
    head = [*head, "see"] if more else head
    table = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in table)


def _cell(text: str) -> str:
    """Return a text as a cell of Markdown, which is one line."""
    return " ".join(text.split()).replace("|", "\\|")
