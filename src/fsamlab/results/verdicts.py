"""The verdict on each claim: holds, does not hold, or undecided.

Pairs are the seeds that both groups have. A claim holds, or does not hold, where a one-sided t test on the paired
differences shows so, after Holm's correction for the number of claims. Everything else is undecided: a difference that
is not shown is not a difference of 0.

| relation | holds: shown that | does not hold: shown that |
| --- | --- | --- |
| a > b | a - b > 0 | a - b < margin |
| a >= b | a - b > -margin | a - b < 0 |
| a = b | -margin < a - b < margin | a - b < -margin, or a - b > margin |

`<` and `<=` are `>` and `>=` with the groups exchanged. Where both sides of a row are shown, the claim holds, and the
difference is smaller than the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab import metrics
from fsamlab.config import ConfigError
from fsamlab.results.choice import best_value
from fsamlab.results.claims import Claim, Claims, Where
from fsamlab.results.loading import load
from fsamlab.results.paired import Paired, holm
from fsamlab.results.passes import PASSES, equal, total_passes
from fsamlab.results.settings import METHOD, as_text, numbers, plain
from fsamlab.results.study import Study

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Group:
    """A group of runs.

    Attributes:
        values: of the metric, by seed.
        chosen: the settings that validation data chose.
        passes: the mean number of gradient passes of a run, in epochs of SGD; NaN if it is not known.
    """

    values: pd.Series
    chosen: dict[str, Any]
    passes: float


@dataclass(frozen=True)
class Verdict:
    """What is known of a claim.

    Attributes:
        claim: the claim.
        metric: the column whose values are compared.
        unit: `points` for a metric in per cent, whose values are multiplied by 100; else the unit of the metric.
        pairs: the paired differences `a - factor b`, or `a - number`.
        interval: the t interval of the mean difference, at the level of the file, for this claim alone.
        p_holds: p-value of the test whose rejection means that the claim holds, corrected for all claims.
        p_fails: the same for `does not hold`.
        verdict: HOLDS, FAILS or UNDECIDED.
        means: the mean of each group over the pairs.
        chosen: for each group the settings that validation data chose.
        passes: for each group the gradient passes of a training, in epochs of SGD; NaN where they are not known.
        notes: what a reader must know, such as seeds that one group alone has.
    """

    claim: Claim
    metric: str
    unit: str
    pairs: Paired
    interval: tuple[float, float]
    p_holds: float
    p_fails: float
    verdict: str
    means: tuple[float, ...]
    chosen: tuple[dict[str, Any], ...]
    passes: tuple[float, ...] = ()
    notes: list[str] = field(default_factory=list)


def read_study(paths: Sequence[Path]) -> Study:
    """Return the study of directories of runs and of files that `fsamlab collect` has written.

    Raises:
        ConfigError: a path does not exist, or a file is not a table of runs.
        ValueError: a directory has no runs.
    """
    frames = []
    for path in paths:
        if not path.exists():
            raise ConfigError(
                "runs", str(path), "no such file or directory; `fsamlab collect RUNS --csv FILE` makes it"
            )
        frames.append(_read_csv(path) if path.is_file() else load(path).runs)
    return Study(pd.concat(frames, ignore_index=True))


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, low_memory=False, encoding="utf-8", encoding_errors="surrogateescape")
    except (ValueError, OSError) as e:  # pandas' errors for a file that is no CSV are ValueErrors
        raise ConfigError("runs", str(path), f"cannot be read as CSV: {str(e).splitlines()[0]}") from e
    missing = [key for key in ("run_id", "seed", "status", METHOD) if key not in frame]
    if missing:
        raise ConfigError("runs", str(path), f"has no column {missing[0]}; give a file of `fsamlab collect`")
    return frame


def verdicts(claims: Claims, study: Study | None = None) -> list[Verdict]:
    """Return the verdict on each claim of a file, in order.

    Args:
        claims: the claims.
        study: the runs; None means the runs that the file names.

    Raises:
        ConfigError: the runs do not allow an answer; the message names the claim and what is missing.
    """
    study = read_study(claims.runs) if study is None else study
    done = study.finished.distinct.known
    found = [_differences(claim, claims, done) for claim in claims.claims]
    p_holds = holm([_p_holds(one.claim, one.pairs) for one in found])
    p_fails = holm([_p_fails(one.claim, one.pairs) for one in found])
    level = claims.alpha / 2  # of each side: a claim may be called true, or false, by chance
    return [_judged(one, p, q, level, claims.alpha) for one, p, q in zip(found, p_holds, p_fails)]


@dataclass(frozen=True)
class _Found:
    claim: Claim
    metric: str
    pairs: Paired
    groups: tuple[Group, ...]
    seeds: list[Any]
    notes: list[str]


def _differences(claim: Claim, claims: Claims, done: Study) -> _Found:
    name = f"claim {claim.name!r}"
    metric = claim.metrics.get(claim.a) or claim.metric or done.headline.at_end
    groups = [
        _group(
            f"{name}, group {group}",
            done,
            {**claims.groups[group], **claim.where},
            claim,
            claim.metrics.get(group, metric),
        )
        for group in (claim.a, claim.b)
        if group is not None
    ]
    if len({metrics.of(column).unit for column in claim.metrics.values()}) > 1:
        raise ConfigError("metrics", ", ".join(claim.metrics.values()), f"{name}: the two columns have different units")
    if claim.over is not None and len(groups) == 2:
        groups = _over_the_same(name, claim, groups)
    notes = _compute(claim, metric, groups)
    series = [_statistic(claim, group.values) for group in groups]
    seeds = sorted(set.intersection(*(set(values.index) for values in series)))
    if not seeds:
        raise ConfigError("claim", claim.name, f"{claim.a} and {claim.b} have no seed in common; train the same seeds")
    alone = [len(values) - len(seeds) for values in series]
    notes += [f"{n} seeds of {g} have no partner" for n, g in zip(alone, (claim.a, claim.b)) if n]
    a = series[0][seeds]
    right = claim.factor * series[1][seeds] if len(series) == 2 else claim.factor
    kept = tuple(Group(values[seeds], group.chosen, group.passes) for values, group in zip(series, groups))
    return _Found(claim, metric, Paired.of((a - right).to_list()), kept, seeds, notes)


def _compute(claim: Claim, metric: str, groups: Sequence[Group]) -> list[str]:
    """Return what a reader must know of the gradient passes of two groups.

    Raises:
        ConfigError: the claim asks for equal compute, and the groups do not have it, or their passes are not known.
    """
    if len(groups) < 2:
        return []
    (a, b), (of_a, of_b) = (claim.a, claim.b), (group.passes for group in groups)
    if claim.equal_compute and not equal(of_a, of_b):
        unknown = [str(name) for name, passes in ((a, of_a), (b, of_b)) if math.isnan(passes)]
        why = f"{a} made {of_a:.4g} gradient passes and {b} {of_b:.4g}, in epochs of SGD; take runs with as many, such "
        why += "as optimizer=sgd_2x for a method with two passes in a step"
        if unknown:
            why = f"the gradient passes of {' and '.join(unknown)} are not known; train these runs again"
        raise ConfigError("equal_compute", True, f"claim {claim.name!r}: {why}")
    known = not (math.isnan(of_a) or math.isnan(of_b))
    if known and not equal(of_a, of_b) and not metric.startswith("cost/"):
        return [f"not at equal compute: {of_a:.4g} gradient passes of {a}, {of_b:.4g} of {b}"]
    return []


def _group(what: str, done: Study, where: Where, claim: Claim, metric: str) -> Group:
    """Return the values of a group, by seed; by (seed, value of the key) for a statistic over a key."""
    runs = _having(what, done.runs, where)
    part = Study(runs)
    over = claim.over.key if claim.over is not None else None
    free = [*claim.tune, *([over] if over else [])]
    others = [str(key) for key in part.texts if key not in free]
    if others:
        values = ", ".join(sorted(part.texts[others[0]].unique())[:4])
        raise ConfigError("groups", what, f"its runs differ in {others[0]} ({values}); add the key to where or tune")
    chosen: dict[str, Any] = {}
    tuned = [key for key in claim.tune if key in part.texts]
    if tuned:
        runs, chosen = _tuned(what, runs, tuned, over, done.headline)
    passes = total_passes(runs)
    if metric == PASSES:
        runs = runs.assign(**{PASSES: passes})
    if metric not in runs or numbers(runs[metric]).isna().all():
        raise ConfigError("metric", metric, f"no run of {what} has this column")
    index = ["seed", over] if over else ["seed"]
    if runs[index].duplicated().any():
        raise ConfigError("groups", what, "has two runs with one seed and setting; name one directory or file alone")
    scale = 100.0 if metrics.of(metric, done.headlines).percent else 1.0
    return Group(numbers(runs.set_index(index)[metric]).dropna() * scale, chosen, float(passes.mean()))


def _having(what: str, runs: pd.DataFrame, where: Where) -> pd.DataFrame:
    kept = runs
    for key, value in where.items():
        if key not in runs:
            raise ConfigError("where", key, f"no run has this config key ({what})")
        found = kept[key].map(plain)
        wanted = value if isinstance(value, list) else [value]
        for one in wanted:
            if not (found == plain(one)).any():
                values = ", ".join(sorted(set(found))[:6])
                raise ConfigError(key, one, f"{what} has no finished run with this value; the runs have {values}")
        kept = kept[found.isin([plain(one) for one in wanted])]
    return kept


def _tuned(
    what: str, runs: pd.DataFrame, keys: Sequence[str], over: str | None, headline: metrics.Headline
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the runs at the values of `keys` that validation data choose, and the values."""
    if over is not None:
        raise ConfigError("over", over, f"{what}: a statistic over a key and a choice of {keys[0]} exclude each other")
    values = runs[list(keys)].apply(as_text).agg(tuple, axis=1)
    try:
        best: Any = best_value(runs, values, headline, what, " and ".join(keys))
    except ValueError as e:
        raise ConfigError("tune", ", ".join(keys), str(e)) from e
    kept = runs[values == best]
    return kept, {key: kept[key].iloc[0] for key in keys}


def _over_the_same(name: str, claim: Claim, groups: Sequence[Group]) -> list[Group]:
    """Return the groups with the values of the key that both groups have: a wider grid has a wider range."""
    assert claim.over is not None
    key = claim.over.key
    tried = [set(group.values.index.get_level_values(key)) for group in groups]
    both = tried[0] & tried[1]
    if len(both) < 2:
        raise ConfigError("over", key, f"{name}: the groups have {len(both)} values in common; two are needed")
    return [Group(g.values[g.values.index.get_level_values(key).isin(both)], g.chosen, g.passes) for g in groups]


def _statistic(claim: Claim, values: pd.Series) -> pd.Series:
    """Return the value of each seed; a seed without all values of the key is left out."""
    if claim.over is None:
        return values
    of_seed = values.groupby(level="seed")
    complete = of_seed.count() == of_seed.count().max()
    found = {"range": of_seed.max() - of_seed.min(), "mean": of_seed.mean(), "worst": of_seed.min()}[claim.over.take]
    return found[complete]


def _side(claim: Claim, pairs: Paired) -> tuple[str, Paired]:
    """Return the claim as one with `>`, `>=` or `=`: `a < b` is `-a > -b`."""
    if claim.relation not in ("<", "<="):
        return claim.relation, pairs
    turned = Paired(pairs.n, -pairs.mean, pairs.std, pairs.below, pairs.above)
    return claim.relation.replace("<", ">"), turned


def _p_holds(claim: Claim, pairs: Paired) -> float:
    relation, pairs = _side(claim, pairs)
    if relation == "=":
        return max(pairs.p_above(-claim.margin), pairs.p_below(claim.margin))
    if relation == ">=" and pairs.std == 0:  # a cost without chance, which may lie on the bound exactly
        return 0.0 if pairs.mean >= -claim.margin else 1.0
    return pairs.p_above(0.0 if relation == ">" else -claim.margin)


def _p_fails(claim: Claim, pairs: Paired) -> float:
    relation, pairs = _side(claim, pairs)
    if relation == "=":  # two tests, of which one has to reject
        return min(1.0, 2 * min(pairs.p_above(claim.margin), pairs.p_below(-claim.margin)))
    return pairs.p_below(claim.margin if relation == ">" else 0.0)


def _judged(found: _Found, p_holds: float, p_fails: float, level: float, alpha: float) -> Verdict:
    claim, notes = found.claim, list(found.notes)
    holds, fails = p_holds <= level, p_fails <= level
    if holds and fails:
        notes.append(f"the difference is smaller than the margin of {claim.margin:g}")
    if found.pairs.n < 2:
        notes.append("one pair says nothing about chance")
    row = metrics.of(found.metric)
    return Verdict(
        claim,
        found.metric,
        "points" if row.percent else row.unit,
        found.pairs,
        found.pairs.interval(alpha),
        p_holds,
        p_fails,
        HOLDS if holds else FAILS if fails else UNDECIDED,
        tuple(float(group.values.mean()) for group in found.groups),
        tuple(group.chosen for group in found.groups),
        tuple(group.passes for group in found.groups),
        notes,
    )
