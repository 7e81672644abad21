"""Runs beside reference numbers: means of our groups, differences, and whether they lie inside a band.

The best epoch on test data stands beside a reference's best epoch alone, because published numbers often are of this
kind. It selects nothing: no run, no epoch and no setting is chosen by it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import pandas as pd

from fsamlab.metrics import Declared, higher_is_better, of
from fsamlab.results.collect import read_run_rows
from fsamlab.results.methods import label
from fsamlab.results.references import BEST, KINDS, LAST, UNSTATED, Reference
from fsamlab.results.settings import METHOD, as_text, own_n, plain
from fsamlab.results.study import Runs, Study
from fsamlab.terminal.text import spread

STANDS_BESIDE = {LAST: LAST, BEST: BEST, UNSTATED: LAST}  # kind of a reference's value -> kind of ours


@dataclass(frozen=True)
class OwnRun:
    """A run of ours.

    Attributes:
        directory: the run directory.
        seed: the seed.
        status: of the run; only `finished` enters a mean.
        values: last and best_on_test -> value in the unit of the reference; a value that the run lacks is absent.
        best_epoch: the first epoch with the best value on test data.
    """

    directory: str
    seed: Any
    status: str
    values: Mapping[str, float]
    best_epoch: float | None = None

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return Path(self.directory).name


@dataclass(frozen=True)
class Mean:
    """Mean, standard deviation (n - 1, NaN for one run) and number of runs."""

    mean: float
    std: float
    n: int


def group_name(keys: Mapping[str, Any]) -> str:
    """Return the name of a group of runs, such as `F-SAM, lmbda 0.9`."""
    words = [label(str(keys[METHOD]))]
    for key, value in keys.items():
        if key != METHOD and value is not None and value == value:
            words.append(plain(value) if key.endswith(".name") else f"{key.split('.', 1)[1]} {plain(value)}")
    return ", ".join(words)


@dataclass(frozen=True)
class Beside:
    """A group of runs beside a reference.

    Attributes:
        reference: the reference.
        keys: the config keys that tell the groups apart -> the group's values.
        differences: where the group's setting differs from the reference's, in words; empty for the same setting.
        runs: the runs of the group, finished or not.
        percent: whether the values are in per cent.
        near: whether data set, model and method are those of the reference.
    """

    reference: Reference
    keys: Mapping[str, Any]
    differences: tuple[str, ...]
    runs: tuple[OwnRun, ...]
    percent: bool
    near: bool

    @property
    def group(self) -> str:
        """Name of the group, such as `F-SAM, lmbda 0.9`."""
        return group_name(self.keys)

    @property
    def unfinished(self) -> list[OwnRun]:
        """The runs that did not finish."""
        return [run for run in self.runs if run.status != "finished"]

    @property
    def finished(self) -> list[OwnRun]:
        """The runs that finished."""
        return [run for run in self.runs if run.status == "finished"]

    @property
    def lacking(self) -> list[tuple[OwnRun, str]]:
        """The finished runs without a value that the reference has, each with what is missing."""
        needed = {LAST: f"final/test/{self.reference.metric}", BEST: f"test/{self.reference.metric} in metrics.jsonl"}
        kinds = dict.fromkeys(STANDS_BESIDE[kind] for kind in self.reference.values)
        return [(run, needed[kind]) for run in self.finished for kind in kinds if kind not in run.values]

    def ours(self, kind: str) -> Mean | None:
        """Return our mean of a kind of value over the finished runs; None without a value."""
        values = [run.values[kind] for run in self.finished if kind in run.values]
        if not values:
            return None
        return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))

    def gap(self, kind: str) -> float:
        """Return our mean minus the reference's value of a kind; NaN if one of them is missing."""
        ours = self.ours(STANDS_BESIDE[kind])
        theirs = self.reference.values.get(kind)
        return math.nan if ours is None or theirs is None else ours.mean - theirs.mean

    def outside(self, band: float) -> list[str]:
        """Return a line for each mean and each run that differs from the reference by more than `band`."""
        lines = []
        for kind, theirs in self.reference.values.items():
            own = STANDS_BESIDE[kind]
            ours = self.ours(own)
            found = [(f"run {run.name}", run.values[own]) for run in self.finished if own in run.values]
            if ours is not None and ours.n > 1:
                found.insert(0, (f"{self.group}, mean of {ours.n} runs", ours.mean))
            for what, value in found:
                # the values have two decimals; a difference of exactly the band is inside
                if round(abs(value - theirs.mean), 9) > band:
                    unstated = " (epoch not stated)" if kind == UNSTATED else ""
                    lines.append(
                        f"{what}: {KINDS[own]} {self.said(value)}, {self.reference.name} has "
                        f"{self.said(theirs.mean)}{unstated}: {self.signed(value - theirs.mean)}, more than {band:g}"
                    )
        return lines

    def said(self, value: float) -> str:
        """Return a value in the form of the tables."""
        return f"{value:.2f}" if self.percent else f"{value:.5g}"

    def mean_said(self, kind: str) -> str:
        """Return our `mean ± std` of a kind, with its own n if that differs from the number of finished runs."""
        ours = self.ours(kind)
        if ours is None:
            return "-"
        scale = 100 if self.percent else 1
        return spread(ours.mean / scale, ours.std / scale, self.percent) + own_n(ours.n, len(self.finished))

    def reference_said(self, kind: str) -> str:
        """Return the reference's value of a kind, `-` where it has none."""
        theirs = self.reference.values.get(kind)
        if theirs is None:
            return "-"
        return self.said(theirs.mean) + ("" if theirs.std is None else f" ± {self.said(theirs.std)}")

    def gap_said(self, kind: str) -> str:
        """Return our mean minus the reference's value with its sign, `-` where one is missing."""
        gap = self.gap(kind)
        return "-" if math.isnan(gap) else self.signed(gap)

    def signed(self, gap: float) -> str:
        """Return a difference with its sign; a difference that rounds to zero is `+0.00`."""
        return f"{round(gap, 2) + 0.0:+.2f}" if self.percent else f"{gap:+.4g}"


def beside(
    runs: Runs, references: Sequence[Reference], *, asked: bool = False, only_same: bool = False
) -> list[Beside]:
    """Return the groups of runs beside the references, in the order of the runs.

    Groups are the settings of the study. A group meets a reference of its method and data set, and also any other
    reference if `asked`; `differences` then says what else differs.

    Args:
        runs: a study, or its frame of runs.
        references: as :func:`~fsamlab.results.references.known_references` returns them.
        asked: whether the user has named the references.
        only_same: leave out what differs in any setting.
    """
    study = Study.of(runs).distinct.known
    found: list[Beside] = []
    for keys, first, places in _groups(study):
        read: dict[tuple[str, bool], tuple[OwnRun, ...]] = {}  # once, for all references of a metric
        for reference in references:
            meets = not reference.not_here and all(reference.agrees(first, key) for key in ("data.name", METHOD))
            if not meets and not asked:
                continue
            differences = tuple(reference.differences(first))
            if differences and only_same:
                continue
            percent = of(f"test/{reference.metric}", study.headlines).percent
            near = meets and reference.agrees(first, "model.name")
            # The rows of a run are read only where its values are shown, because there may be many runs.
            key = reference.metric, near or asked
            if key not in read:
                group = study.runs.iloc[places].to_dict("records")
                read[key] = tuple(_own(run, key[0], percent, study.headlines, key[1]) for run in group)
            found.append(Beside(reference, keys, differences, read[key], percent, near))
    return found


def without_reference(runs: Runs, found: Sequence[Beside]) -> list[str]:
    """Return the names of the groups that no reference of `found` stands beside."""
    met = {one.group for one in found}
    names = [group_name(keys) for keys, *_ in _groups(Study.of(runs).distinct.known)]
    return [name for name in names if name not in met]


def _groups(study: Study) -> list[tuple[dict[str, Any], dict[Any, Any], list[int]]]:
    """Return for each setting its keys, its first run, and the places of its runs in the frame."""
    frame = study.runs
    if frame.empty:
        return []
    texts = pd.DataFrame({key: as_text(frame[key]) for key in study.keys})
    found: dict[tuple[str, ...], list[int]] = {}
    for place, text in enumerate(texts.itertuples(index=False, name=None)):
        found.setdefault(text, []).append(place)
    # only the first runs as dictionaries: most settings of a large sweep meet no reference
    firsts = frame.iloc[[places[0] for places in found.values()]].to_dict("records")
    return [({key: run[key] for key in study.keys}, run, places) for run, places in zip(firsts, found.values())]


def _own(run: Mapping[Any, Any], metric: str, percent: bool, declared: Declared, with_rows: bool) -> OwnRun:
    values: dict[str, float] = {}
    epoch = None
    status = str(run.get("status"))
    scale = 100 if percent else 1
    if with_rows and status == "finished":
        last = run.get(f"final/test/{metric}")
        if _is_number(last):
            values[LAST] = scale * last
        rows = read_run_rows(Path(run["directory"])).metrics
        evaluated = (row for row in rows if _is_number(row.get(f"test/{metric}")))
        choose = max if higher_is_better(f"test/{metric}", declared) else min
        best = choose(evaluated, key=lambda row: row[f"test/{metric}"], default=None)
        if best is not None:
            values[BEST], epoch = scale * best[f"test/{metric}"], best.get("epoch")
    return OwnRun(str(run["directory"]), run.get("seed"), status, values, epoch)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def comparison_table(found: Sequence[Beside]) -> pd.DataFrame:
    """Return one row for each group and reference: keys, n, values of both, differences of the values and settings.

    The columns are `reference`, the config keys, `n`, for last and best_on_test `KIND mean` and `KIND std` (ours),
    for last, best_on_test and unstated `reference KIND` and `difference KIND`, and `differs in` and `source`.
    Accuracies are in per cent, differences in points.
    """
    rows = []
    for one in found:
        row: dict[str, Any] = {"reference": one.reference.name, **one.keys, "n": len(one.finished)}
        for kind in (LAST, BEST):
            ours = one.ours(kind)
            row |= {f"{kind} mean": ours.mean if ours else math.nan, f"{kind} std": ours.std if ours else math.nan}
        for kind in (LAST, BEST, UNSTATED):
            theirs = one.reference.values.get(kind)
            row |= {f"reference {kind}": theirs.mean if theirs else math.nan, f"difference {kind}": one.gap(kind)}
        rows.append({**row, "differs in": "; ".join(one.differences), "source": one.reference.origin})
    return pd.DataFrame(rows)
