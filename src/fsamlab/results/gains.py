"""Differences from a reference method, seed by seed. The reference is SGD at equal compute, unless a method is named.

A method that makes two gradient passes in a step does twice the work of SGD in as many epochs. Its reference at equal
compute is the base optimizer alone with as many passes: `sgd_2x`, or SGD with twice the epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fsamlab.axes.ascent import ASCENTS
from fsamlab.results.paired import Paired
from fsamlab.results.passes import equal
from fsamlab.results.settings import METHOD, conditions_of

EQUAL = "equal compute"  # in place of the name of a method: the base alone, with as many passes
SGD = "sgd"
PLAIN = {"sgd": "sgd", "sgd_2x": "sgd", "adamw": "adamw"}  # method without a perturbation -> its base
ALPHA = 0.05  # the intervals of the tables cover 95 %
VS_SGD = "vs SGD, equal compute"  # the heading of the gains
UNEQUAL = "*"  # behind a difference from a reference with other passes


@dataclass(frozen=True)
class Gain:
    """The paired differences of a setting from its reference.

    Attributes:
        pairs: statistics of the setting's value minus the reference's, in points for a metric in per cent.
        higher_is_better: the direction of the metric.
        reference: the index of the reference's row in the table of settings.
        equal: whether both trainings made as many gradient passes.
        percent: whether the differences are points.
    """

    pairs: Paired
    higher_is_better: bool
    reference: Any
    equal: bool
    percent: bool

    @property
    def ahead(self) -> int:
        """The number of seeds in which the setting is better than its reference."""
        return self.pairs.above if self.higher_is_better else self.pairs.below

    @property
    def text(self) -> str:
        """`+3.96 [+0.20, +7.72] 3/3`: mean, 95 % t interval, seeds in which it is better; `*` at unequal compute."""
        pairs = self.pairs
        low, high = pairs.interval(ALPHA)
        decimals = 2 if self.percent else _decimals(pairs.mean if math.isnan(low) else high - low)
        between = "" if math.isnan(low) else f" [{low:+.{decimals}f}, {high:+.{decimals}f}]"
        return f"{pairs.mean:+.{decimals}f}{between} {self.ahead}/{pairs.n}{'' if self.equal else UNEQUAL}"


def _decimals(size: float) -> int:
    """Return the decimals that show two significant digits of a size."""
    return max(0, min(6, 1 - math.floor(math.log10(abs(size))))) if size else 2


def is_plain(method: str, ascent: Any) -> bool:
    """Return whether a method is a base optimizer alone."""
    if ascent is None or ascent != ascent:
        return method in PLAIN
    return ascent in ASCENTS and not ASCENTS[ascent].perturbs


def references(table: pd.DataFrame, keys: Sequence[str], against: str = EQUAL) -> dict[Any, tuple[Any, bool]]:
    """Return {setting: (setting of its reference, whether both have equal compute)}.

    A reference agrees with the setting in all keys except the optimizer's; where compute is what is equal, the number
    of epochs may differ. A setting has no reference where no setting, or more than one, can be it.

    Args:
        table: a row for each setting, with the config keys, `passes`, `plain` (no perturbation) and `base`.
        keys: the config keys that tell the settings apart.
        against: EQUAL, which takes plain SGD where no setting has as many passes; or the name of a method.
    """
    rows = {index: row for index, row in zip(table.index, table.to_dict("records"))}
    conditions = conditions_of(keys)
    by_condition = _grouped(rows, conditions)
    by_others = _grouped(rows, [key for key in conditions if key != "train.epochs"])
    found = {}
    for index, row in rows.items():
        here = [i for i in by_condition[_values(row, conditions)] if i != index]
        one = None
        if against == EQUAL and not row["plain"]:
            there = by_others[_values(row, [key for key in conditions if key != "train.epochs"])]
            same = [i for i in there if _is_equal(row, rows[i])]
            one = _single(same) if len(same) < 2 else _single([i for i in same if i in here])
        if one is None and row[METHOD] != against:
            method = SGD if against == EQUAL else against
            named = [i for i in here if rows[i][METHOD] == method and row[METHOD] != method]
            alike = [i for i in named if all(_same(row[key], rows[i][key]) for key in keys if key != METHOD)]
            one = _single(named) if len(named) < 2 or against == EQUAL else _single(alike)
        if one is not None:
            found[index] = (one, equal(row["passes"], rows[one]["passes"]))
    return found


def _is_equal(row: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return other["plain"] and other["base"] == row["base"] and equal(row["passes"], other["passes"])


def _grouped(rows: Mapping[Any, Mapping[Any, Any]], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Any]]:
    found: dict[tuple[Any, ...], list[Any]] = {}
    for index, row in rows.items():
        found.setdefault(_values(row, keys), []).append(index)
    return found


def _values(row: Mapping[Any, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(None if row[key] != row[key] else row[key] for key in keys)  # missing values agree


def _same(a: Any, b: Any) -> bool:
    return a == b or (a != a and b != b) or (a is None and b is None)


def _single(found: Sequence[Any]) -> Any:
    return found[0] if len(found) == 1 else None


def paired(
    seeds: Sequence[Any], values: Sequence[float], runs: Sequence[int], reference: Sequence[int]
) -> Paired | None:
    """Return the statistics of the differences between runs and those of the reference with the same seed.

    Args:
        seeds, values: of all runs; the values are numbers or NaN.
        runs, reference: positions of the runs of a setting and of its reference.

    Returns:
        The statistics; None if no seed has both values, or if several runs have one seed.
    """
    of_reference = {seeds[i]: values[i] for i in reference}
    if len(of_reference) < len(reference) or len({seeds[i] for i in runs}) < len(runs):
        return None
    differences = [values[i] - of_reference.get(seeds[i], math.nan) for i in runs]
    known = [difference for difference in differences if not math.isnan(difference)]
    return Paired.of(known) if known else None


def gains_of(table: pd.DataFrame, metric: str) -> list[Gain]:
    """Return the gains of a table of settings."""
    column = f"{metric} gain"
    return [gain for gain in table[column] if gain is not None] if column in table else []


def gain_text(row: Mapping[Any, Any], metric: str) -> str:
    """Return the text of the gain of a setting; `-` where there is none."""
    gain = row.get(f"{metric} gain")
    return gain.text if isinstance(gain, Gain) else "-"


def reference_words(gains: Sequence[Gain]) -> list[str]:
    """Return what stands below a table of gains: what the numbers are, and where the compute is not equal."""
    if not gains:
        return []
    unit = ", in points" if gains[0].percent else ""
    found = [
        f"{VS_SGD}: at the end, minus SGD with as many gradient passes, seed by seed{unit}: mean [95 % t interval] and "
        "the seeds in which the method is better"
    ]
    return found + unequal_words(gains)


def unequal_words(gains: Sequence[Gain], against: str = EQUAL) -> list[str]:
    """Return what the mark behind a gain means, if one is marked."""
    if all(gain.equal for gain in gains):
        return []
    if against != EQUAL:
        return [f"{UNEQUAL} not at equal compute: the reference has another number of gradient passes"]
    return [f"{UNEQUAL} minus plain SGD, not at equal compute: no other SGD run is known to have as many passes"]
