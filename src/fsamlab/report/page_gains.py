"""The differences of the table of results: the reader of the page chooses what they are to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fsamlab.results.gains import EQUAL, SGD, Gain, gains_of, unequal_words
from fsamlab.results.methods import METHODS, label
from fsamlab.results.settings import METHOD
from fsamlab.results.study import Study

MAX_TEXTS = 4000  # settings times references; beyond, the page offers SGD alone
AT_EQUAL_COMPUTE = "SGD at equal compute"


@dataclass(frozen=True)
class Gains:
    """The differences of all settings to all references.

    Attributes:
        metrics: the metrics that have differences.
        names: the references; the first one is SGD at equal compute.
        notes: a line for each reference, empty where there is nothing to say.
        found: for each reference {metric: {index of a setting: its difference}}.
    """

    metrics: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]
    found: tuple[Mapping[str, Mapping[Any, Gain]], ...]

    def options(self, metric: str, index: Any) -> tuple[tuple[str, float | str], ...]:
        """Return text and value of a setting's difference to each reference."""
        gains = [of_metric.get(metric, {}).get(index) for of_metric in self.found]
        return tuple(("–", "") if gain is None else (gain.text, gain.pairs.mean) for gain in gains)


def of(study: Study, metrics: Sequence[str], table: pd.DataFrame) -> Gains:
    """Return the differences of the settings of a study in `metrics`.

    Args:
        study: the runs.
        metrics: columns of the summary.
        table: the study's table by setting, with the differences to SGD at equal compute.
    """
    methods = sorted(table[METHOD].unique(), key=lambda name: list(METHODS).index(name) if name in METHODS else 999)
    if len(methods) < 2:
        methods = []
    if len(table) * len(methods) > MAX_TEXTS:
        methods = [method for method in methods if method == SGD]
    tables = {EQUAL: table, **{method: study.settings(metrics, method) for method in methods}}
    names, notes, found = [], [], []
    for against, one in tables.items():
        gains = {metric: gains_of(one, metric) for metric in metrics}
        if any(gains.values()):
            names.append(AT_EQUAL_COMPUTE if against == EQUAL else label(against))
            words = unequal_words([gain for those in gains.values() for gain in those], against)
            notes.append(" ".join(f"{line}." for line in words))
            columns = {metric: one[f"{metric} gain"] for metric in metrics if gains[metric]}
            found.append({metric: column.dropna().to_dict() for metric, column in columns.items()})
    shown = tuple(metric for metric in metrics if any(metric in those for those in found))
    return Gains(shown, tuple(names), tuple(notes), tuple(found))
