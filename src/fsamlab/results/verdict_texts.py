"""The numbers of verdicts as texts and as JSON: the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fsamlab.results.settings import plain
from fsamlab.results.verdicts import Verdict


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


def law(alpha: float, n: int) -> str:
    """Return how the verdicts on n claims are made."""
    return (
        f"p-values of one-sided t tests on the paired differences, corrected for {n} claims (Holm); a claim is judged "
        f"at {alpha / 2:g} on each side; the intervals are not corrected"
    )


def cells(one: Verdict) -> list[str]:
    """Return name, n, mean difference, its interval, and the positive pairs."""
    pairs = one.pairs
    ties = pairs.n - pairs.above - pairs.below
    signs = f"{pairs.above} of {pairs.n}" + (f", {ties} equal" if ties else "")
    return [one.claim.name, str(pairs.n), _signed(pairs.mean), _interval(one.interval), signs]


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3g}" if abs(value) < 0.1 else f"{value:+.2f}"


def _interval(interval: tuple[float, float]) -> str:
    return "-" if math.isnan(interval[0]) else f"{_signed(interval[0])} to {_signed(interval[1])}"


def p_text(value: float) -> str:
    """Return a p-value."""
    return f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3f}" if value else "0"


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
        "see": claim.see,
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
        "equal_compute": claim.equal_compute,
        "passes": [None if math.isnan(passes) else passes for passes in one.passes],
        "chosen": [{key: plain(value) for key, value in chosen.items()} for chosen in one.chosen],
        "notes": one.notes,
    }
