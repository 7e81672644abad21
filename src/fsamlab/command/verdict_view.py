"""`fsamlab verdict`: claims about runs, each with its numbers and its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from fsamlab.config import ConfigError
from fsamlab.results.claims import read_claims
from fsamlab.results.settings import plain
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
    rows: list[list[str | Text]] = []
    for one in found:
        cells: list[str | Text] = [*_cells(one), _p(one.p_holds), _p(one.p_fails)]
        rows.append([*cells, Text(one.verdict, style=STYLES[one.verdict])])
    screen = console()
    screen.print(table(columns, rows, screen.width, "Claims, over paired seeds"))
    for line in [*lines(found), _law(alpha, len(found))]:
        screen.print(wrapped(screen, line, hang=4), soft_wrap=True)


def lines(found: Sequence[Verdict]) -> list[str]:
    """Return what stands below the table: each claim in words, the chosen settings, the notes."""
    said = []
    for one in found:
        claim = one.claim
        words = [word for word in (claim.says, claim.source) if word]
        sides = zip((claim.a, claim.b), one.chosen, one.means)
        parts = [f"{group} {mean:.4g}" + _settings(chosen) for group, chosen, mean in sides]
        metric = " and ".join(claim.metrics.values()) or one.metric
        metric = metric if claim.over is None else f"{claim.over.take} of {metric} over {claim.over.key}"
        words.append(f"{metric}, {one.unit}: {', '.join(parts)}; margin {claim.margin:g}")
        said.append(f"{claim.name}: {'; '.join([*words, *one.notes])}")
    return said


def _settings(chosen: dict[str, Any]) -> str:
    named = [f"{key.removeprefix('optimizer.')} {plain(value)}" for key, value in chosen.items()]
    return f" (validation chose {', '.join(named)})" if named else ""


def _law(alpha: float, n: int) -> str:
    return (
        f"p-values of one-sided t tests on the paired differences, corrected for {n} claims (Holm); a claim is judged "
        f"at {alpha / 2:g} on each side; the intervals are not corrected"
    )


def _cells(one: Verdict) -> list[str]:
    pairs = one.pairs
    ties = pairs.n - pairs.above - pairs.below
    signs = f"{pairs.above} of {pairs.n}" + (f", {ties} equal" if ties else "")
    return [one.claim.name, str(pairs.n), _signed(pairs.mean), _interval(one.interval), signs]


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3g}" if abs(value) < 0.1 else f"{value:+.2f}"


def _interval(interval: tuple[float, float]) -> str:
    return "-" if math.isnan(interval[0]) else f"{_signed(interval[0])} to {_signed(interval[1])}"


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"


def markdown(found: Sequence[Verdict], interval: str) -> str:
    """Return the verdicts as a table in Markdown."""
    head = ["claim", "in words", "n", "mean difference", interval, "> 0", "unit", "verdict"]
    rows = []
    for one in found:
        name, n, mean, between, signs = _cells(one)
        words = one.claim.says + (f" ({one.claim.source})" if one.claim.source else "")
        rows.append([f"`{name}`", words, n, mean, between, signs, one.unit, f"**{one.verdict}**"])
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def as_json(one: Verdict) -> dict[str, Any]:
    """Return a verdict as a JSON object; a number that is not known is null."""
    claim, pairs = one.claim, one.pairs
    low, high = one.interval
    numbers = {"mean": pairs.mean, "std": pairs.std, "low": low, "high": high, "p_sign": pairs.p_sign}
    return {
        "name": claim.name,
        "claim": claim.text,
        "where": claim.where,
        "says": claim.says,
        "source": claim.source,
        "metric": one.metric,
        "metrics": claim.metrics,
        "unit": one.unit,
        "margin": claim.margin,
        "n": pairs.n,
        "above": pairs.above,
        "below": pairs.below,
        **{key: None if math.isnan(value) else value for key, value in numbers.items()},
        "p_holds": one.p_holds,
        "p_fails": one.p_fails,
        "verdict": one.verdict,
        "means": list(one.means),
        "chosen": [{key: plain(value) for key, value in chosen.items()} for chosen in one.chosen],
        "notes": one.notes,
    }
