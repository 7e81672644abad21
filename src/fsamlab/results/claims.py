"""Claims about runs, read from a YAML file: `fsam > sam` on a metric, with a margin.

    runs: [digits.csv, ../../runs/mini]   # files of `fsamlab collect`, or directories of runs; relative to this file
    metric: final/test/acc1               # a column of results.csv; the headline at the end if absent
    margin: 0.5                           # the smallest difference that matters; points for a metric in per cent
    alpha: 0.05                           # of all claims together
    tune: [optimizer.rho]                 # each group has the value of these keys that validation data choose
    where: {data.name: digits}            # the runs that count
    groups:
      sam: {optimizer.name: sam}
      fsam: {optimizer.name: fsam}
    claims:
      - claim: fsam > sam
        says: F-SAM generalises better than SAM
        source: Li et al. 2024, Table 1
        for_each: {data.label_noise: [0.2, 0.4]}   # one claim for each value
      - claim: fsam <= 1.02 * sam
        metric: cost/step_ms
      - claim: fsam < sam
        metrics: {fsam: final/perturbation/rise_other_fsam, sam: final/perturbation/rise_other_sam}
      - claim: fsam > sgd
        equal_compute: true   # an error unless both groups made as many gradient passes

A claim compares two groups, or a group and a number. `metric`, `margin`, `where`, `tune`, `over`, `equal_compute` and
`see` of the file hold for each claim that does not have its own; a claim with another metric does not take the margin
of the file, which has another unit. verdicts.py judges the claims.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsamlab.config import ConfigError, did_you_mean
from fsamlab.results.entries import NUMBER, Place, check_keys
from fsamlab.results.settings import plain
from fsamlab.storage.reading import Damaged, damaged, read_yaml

Where = dict[str, Any]  # config key -> value, or a list of values of which a run has one; a run counts if all keys fit

FORM = re.compile(r"\s*(?P<a>[A-Za-z_]\w*)\s*(?P<relation><=|>=|<|>|==?)\s*(?P<b>.+?)\s*")
SCALED = re.compile(r"(?:(?P<factor>[^\s*]+)\s*\*\s*)?(?P<group>[A-Za-z_]\w*)")
RELATIONS = ("<", "<=", "=", ">=", ">")
TAKES = ("range", "mean", "worst")


@dataclass(frozen=True)
class Over:
    """A statistic over the values of a config key, within each seed: how much the metric depends on the key.

    Attributes:
        key: the config key, for example optimizer.rho.
        take: `range`, largest minus smallest value of the metric; `mean`; or `worst`, the smallest value.
    """

    key: str
    take: str = "range"


@dataclass(frozen=True)
class Claim:
    """A claim: the metric of group `a` stands in `relation` to `factor` times that of group `b`, or to a number.

    Attributes:
        name: tells the claim from the others; with the values of `for_each`.
        a: the name of a group.
        relation: one of `< <= = >= >`.
        b: the name of a group; None if the claim is about a number.
        factor: stands before `b`; or the number, where `b` is None.
        metric: a column of the collected runs; None means the headline of the runs on test data, at the end.
        metrics: {group: its column}, where the groups do not share one; empty: both have `metric`.
        margin: the smallest difference that matters, in points for a metric in per cent.
        where: further values that the runs of both groups have.
        tune: keys whose value is chosen on validation data, for each group.
        equal_compute: whether to refuse groups with different numbers of gradient passes.
        over: take a statistic over the values of a key instead of the metric; None: the metric.
        says: the claim in words.
        source: who makes the claim.
        see: where the runs come from and what shows them, in Markdown; the last column of `--markdown`.
        text: the claim as the file has it.
    """

    name: str
    a: str
    relation: str
    b: str | None
    factor: float
    metric: str | None
    margin: float
    where: Where = field(default_factory=dict)
    tune: tuple[str, ...] = ()
    over: Over | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    equal_compute: bool = False
    says: str = ""
    source: str = ""
    see: str = ""
    text: str = ""


@dataclass(frozen=True)
class Claims:
    """The content of a file of claims.

    Attributes:
        path: the file.
        runs: files of `fsamlab collect`, or directories of runs.
        groups: {name of a group: the values that its runs have}.
        claims: the claims, with `for_each` written out.
        alpha: the probability that any claim is called true or false by chance.
    """

    path: Path
    runs: tuple[Path, ...]
    groups: dict[str, Where]
    claims: tuple[Claim, ...]
    alpha: float


SHARED = {"metric": str, "margin": NUMBER, "where": dict, "tune": list, "over": dict, "equal_compute": bool, "see": str}
OF_FILE = {"runs": list, "alpha": NUMBER, "groups": dict, "claims": list, **SHARED}
OF_CLAIM = {"claim": str, "name": str, "says": str, "source": str, "for_each": dict, "metrics": dict, **SHARED}


def read_claims(path: Path) -> Claims:
    """Return the claims of a file.

    Raises:
        ConfigError: the file does not exist.
        Damaged: the file is not of the form; the message names file, claim and key.
    """
    content = read_yaml(path)
    if content is None:
        raise ConfigError("CLAIMS.yaml", str(path), "no such file or no content; docs/results.md shows the form")
    if not isinstance(content, dict):
        raise damaged(path, "is not a mapping with the keys runs, groups, claims")
    check_keys(Place(path, "the file"), content, OF_FILE, ("runs", "groups", "claims"))
    alpha = content.get("alpha", 0.05)
    if not 0 < alpha < 0.5:
        raise damaged(path, f"has alpha {alpha}, which must lie between 0 and 0.5")
    groups = {}
    for name, where in content["groups"].items():
        if not isinstance(name, str) or not SCALED.fullmatch(name) or not isinstance(where, dict) or not where:
            raise damaged(path, f"has the group {str(name)[:40]!r}; a group is a name and a mapping of config keys")
        groups[name] = _where(path, f"group {name}", where)
    shared = {key: content[key] for key in SHARED if key in content}
    claims = []
    for number, entry in enumerate(content["claims"], start=1):
        place = f"claim {number}: "
        if not isinstance(entry, dict):
            raise damaged(path, f"{place}is {str(entry)[:40]!r}, and must be a mapping such as {{claim: fsam > sam}}")
        check_keys(Place(path, f"claim {number}"), entry, OF_CLAIM, ("claim",))
        claims += _written_out(path, place, shared, entry, groups)
    twice = [one.name for i, one in enumerate(claims) if one.name in {other.name for other in claims[:i]}]
    if twice or not claims:
        why = f"has two claims with the name {twice[0]!r}" if twice else "has no claims"
        raise damaged(path, why, "give each its own `name`" if twice else "")
    runs = tuple(path.parent / str(run) for run in content["runs"])
    if not runs:
        raise damaged(path, "names no runs")
    return Claims(path, runs, groups, tuple(claims), alpha)


def _written_out(path: Path, place: str, shared: Where, entry: Where, groups: Mapping[str, Where]) -> list[Claim]:
    """Return the claims of an entry: one for each combination of the values of `for_each`."""
    own = {key: entry[key] for key in SHARED if key in entry}
    if "metrics" in entry or ("metric" in own and own["metric"] != shared.get("metric")):
        shared = {key: value for key, value in shared.items() if key != "margin"}
    said = {**shared, **own}
    form = FORM.fullmatch(entry["claim"])
    if form is None:
        raise damaged(path, f"{place}{entry['claim']!r} is not of the form `fsam > sam`, `fsam <= 1.02 * sam`, `a > 0`")
    a, relation = str(form["a"]), str(form["relation"]).replace("==", "=")
    b, factor = _right_side(path, place, form["b"])
    for group in (one for one in (a, b) if one is not None):
        if group not in groups:
            hint = did_you_mean(group, list(groups)) or f"; the groups are {', '.join(groups)}"
            raise damaged(path, f"{place}unknown group {group!r}{hint}")
    columns = _columns(path, place, entry.get("metrics"), (a, b), own)
    margin = float(said.get("margin", 0.0))
    if not margin >= 0 or (relation == "=" and not margin):
        raise damaged(
            path, f"{place}margin is {margin:g}; `=` needs a margin above 0, other relations one of at least 0"
        )
    over = _over(path, place, said.get("over"))
    where = _where(path, f"{place}where", {**shared.get("where", {}), **own.get("where", {})})
    each = {key: values if isinstance(values, list) else [values] for key, values in entry.get("for_each", {}).items()}
    found = []
    for values in itertools.product(*each.values()):
        chosen = _where(path, f"{place}for_each", dict(zip(each, values)))
        name = " ".join(
            [str(entry.get("name", entry["claim"])), *(f"{key}={plain(value)}" for key, value in chosen.items())]
        )
        tune = tuple(str(key) for key in said.get("tune", []) if over is None or key != over.key)
        texts = {key: str({**entry, **said}.get(key, "")) for key in ("says", "source", "see")}
        found.append(
            Claim(
                **texts,
                name=name,
                a=a,
                relation=relation,
                b=b,
                factor=factor,
                metric=said.get("metric"),
                metrics=columns,
                margin=margin,
                where={**where, **chosen},
                tune=tune,
                over=over,
                equal_compute=said.get("equal_compute", False),
                text=entry["claim"],
            )
        )
    return found


def _right_side(path: Path, place: str, text: str) -> tuple[str | None, float]:
    scaled = SCALED.fullmatch(text)
    number = text if scaled is None else scaled["factor"] or "1"
    try:
        factor = float(number)
    except ValueError:
        raise damaged(path, f"{place}{text!r} is neither a group, nor a number times a group, nor a number") from None
    return (None if scaled is None else scaled["group"]), factor


def _columns(path: Path, place: str, found: Any, groups: tuple[str, str | None], own: Where) -> dict[str, str]:
    """Return the column of each group, where the claim says one for each."""
    if found is None:
        return {}
    if "metric" in own or found.keys() != set(groups) or not all(isinstance(one, str) for one in found.values()):
        both = ", ".join(f"{group}: COLUMN" for group in groups)
        raise damaged(
            path, f"{place}metrics must be {{{both}}}, without metric; it is for two groups and their columns"
        )
    return dict(found)


def _over(path: Path, place: str, found: Any) -> Over | None:
    if found is None:
        return None
    over = Over(**found) if found.keys() in ({"key"}, {"key", "take"}) else None
    if over is None or over.take not in TAKES:
        raise damaged(path, f"{place}over must be {{key: optimizer.rho, take: {' | '.join(TAKES)}}}")
    return over


def _where(path: Path, place: str, where: Any) -> Where:
    for key, value in where.items():
        several = value if isinstance(value, list) and value else [value]
        if not isinstance(key, str) or not all(isinstance(one, str | int | float | bool | None) for one in several):
            raise damaged(
                path, f"{place}: {str(key)[:40]} is {str(value)[:40]!r}; a config key has a plain value, or a list"
            )
    return dict(where)


__all__ = ["RELATIONS", "Claim", "Claims", "Damaged", "Over", "read_claims"]
