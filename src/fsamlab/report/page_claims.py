"""The verdicts on a file of claims on the page: the numbers of `fsamlab verdict`, on the runs that the file names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fsamlab.report.page_tables import Cell, Table
from fsamlab.results.claims import read_claims
from fsamlab.results.verdict_texts import cells, law, lines, p_text
from fsamlab.results.verdicts import Verdict, verdicts


@dataclass(frozen=True)
class Judged:
    """The section about claims.

    Attributes:
        file: the name of the file of claims.
        runs: the runs that the claims are about, as the file names them.
        table: a row for each claim.
        lines: each claim in words, with the means, the margin and the notes.
        law: how the verdicts are made.
    """

    file: str
    runs: list[str]
    table: Table
    lines: list[str]
    law: str


def judged(path: Path) -> Judged:
    """Return the verdicts on the claims of a file.

    Raises:
        ConfigError: the runs do not allow an answer.
        Damaged: the file is not of the form.
    """
    claims = read_claims(path)
    found = verdicts(claims)
    interval = f"{100 * (1 - claims.alpha):g}\u00a0% interval"
    headings = [
        ("claim", "A relation B, on the metric that the line below the table names", False),
        ("what the source says", "the claim in words, and who makes it", False),
        ("n", "pairs: seeds that both groups have", True),
        ("mean difference", "A minus B, seed by seed, in the unit of the metric or in points", True),
        (interval, "t interval of the mean difference, for this claim alone", True),
        ("> 0", "pairs with a positive difference", True),
        ("margin", "the smallest difference that matters", True),
        ("p holds", "p-value of the test that shows the claim, corrected for all claims (Holm)", True),
        ("p does not", "p-value of the test that shows the opposite, corrected for all claims (Holm)", True),
        ("verdict", "holds, does not hold, or undecided", False),
    ]
    return Judged(
        path.name,
        [str(run) for run in claims.runs],
        Table(headings, [_row(one) for one in found]),
        lines(found),
        law(claims.alpha, len(found)),
    )


def _row(one: Verdict) -> list[Cell]:
    name, n, mean, between, signs = cells(one)
    low = one.interval[0]
    said = one.claim.says + (f" ({one.claim.source})" if one.claim.source else "")
    return [
        Cell(name, name, key=True),
        Cell(said or "–", said, key=True),
        Cell(n, one.pairs.n),
        Cell(mean, one.pairs.mean),
        Cell(between, "" if math.isnan(low) else low),
        Cell(signs, one.pairs.above),
        Cell(f"{one.claim.margin:g}", one.claim.margin),
        Cell(p_text(one.p_holds), one.p_holds),
        Cell(p_text(one.p_fails), one.p_fails),
        Cell(one.verdict, one.verdict, key=True),
    ]
