"""A study: the frames of some runs, and the settings, ties and tables that are computed from them.

Each result is computed once, when it is first asked for. Page, figures, notebooks and terminal use the same object, so
they agree on what a setting is and on what may be averaged.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from fsamlab.config.identity import NEUTRAL
from fsamlab.metrics import CLASSIFICATION, Headline, family, is_convention
from fsamlab.results.by_setting import by_setting
from fsamlab.results.collect import read_run_rows
from fsamlab.results.gains import EQUAL
from fsamlab.results.settings import MAX_NAMED, METHOD, as_text, more

FIRST = (METHOD, "model.name", "data.name")  # these keys come before all other setting keys


@dataclass(frozen=True, eq=False)
class Study:
    """Runs and the results that are computed from them. A study unpacks as its two frames: `runs, rows = study`.

    The frames must not be changed, because the study keeps results that it has computed from them.

    Attributes:
        runs: a row for each run, as :func:`~fsamlab.results.collect.collect` returns them.
        notes: what a reader must know of the runs, such as directories that are not shown.
    """

    runs: pd.DataFrame
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, runs: Runs) -> Study:
        """Return the study of a frame of runs. If `runs` is a study already, return it, with its results."""
        return runs if isinstance(runs, Study) else cls(runs)

    def where(self, kept: pd.Series) -> Study:
        """Return the study of the runs for which `kept` is true.

        If all runs are kept, return this study itself, so that its results are not computed again.
        """
        return self if kept.all() else Study(self.runs[kept])

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return iter((self.runs, self.rows))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row for each row of metrics of the runs, with the run's `directory`. The files are read at the first use.

        The values that `fsamlab measure` found at a step are a separate row, with the keys `measured/...`. The content
        of a damaged file is left out with a warning.
        """
        rows: list[dict[str, Any]] = []
        for run in self.runs.to_dict("records"):
            directory = run["directory"]
            found = read_run_rows(Path(directory))
            # load() has warned of the damage that stands in `exception`
            for damage in (line for line in found.damage if line not in str(run.get("exception"))):
                warn_caller(f"{damage}; the content of this file is left out")
            rows += [{"directory": directory, **row} for row in found.all]
        return pd.DataFrame(rows)

    # ------------------------------------------------------------------------------------- parts

    @cached_property
    def finished(self) -> Study:
        """The finished runs."""
        return self if self.runs.empty else self.where(self.runs["status"] == "finished")

    @cached_property
    def distinct(self) -> Study:
        """The runs without repetitions: if a run lies in two sweeps, the first copy."""
        if "run_id" not in self.runs:
            return self
        return self.where(self.runs["run_id"].isna() | ~self.runs["run_id"].duplicated())

    @cached_property
    def known(self) -> Study:
        """The runs whose configuration is known; the config.yaml of a damaged run may be unreadable."""
        return self if self.runs.empty else self.where(self.runs[METHOD] != "unknown")

    # ---------------------------------------------------------------------------------- headline

    @cached_property
    def headlines(self) -> tuple[Headline, ...]:
        """The headline metrics that the tasks of the runs declare, without repetitions, in order of appearance."""
        if "task/headline" not in self.runs:
            return (CLASSIFICATION,)
        return tuple(dict.fromkeys(self._headline_of_each)) or (CLASSIFICATION,)

    @property
    def _headline_of_each(self) -> list[Headline]:
        return [Headline.of(run, "task/") for run in self.runs.to_dict("records")]

    @property
    def headline(self) -> Headline:
        """The headline metric of all runs.

        Raises:
            ValueError: the runs have several headline metrics.
        """
        if len(self.headlines) > 1:
            names = " and ".join(headline.name for headline in self.headlines)
            raise ValueError(f"these runs have different headline metrics, {names}: give runs of one task, or a metric")
        return self.headlines[0]

    @cached_property
    def by_headline(self) -> list[Study]:
        """A study for each of :attr:`headlines`; this study itself if there is one headline."""
        if len(self.headlines) == 1:
            return [self]
        each = pd.Series(self._headline_of_each, index=self.runs.index)
        return [self.where(each == headline) for headline in self.headlines]

    # ---------------------------------------------------------------------------------- settings

    @cached_property
    def config_keys(self) -> list[str]:
        """The dotted keys of the configurations, with `name` and `seed`."""
        return [c for c in map(str, self.runs.columns) if "/" not in c and ("." in c or c in ("name", "seed"))]

    @cached_property
    def varied(self) -> pd.DataFrame:
        """The values, as texts, of all config keys that have more than one value."""
        texts = {key: as_text(self.runs[key]) for key in self.config_keys}
        return pd.DataFrame({key: text for key, text in texts.items() if text.nunique() > 1}, index=self.runs.index)

    @cached_property
    def setting_keys(self) -> list[str]:
        """The config keys that can change the trained weights, without the seed; the keys in FIRST come first."""
        dotted = [key for key in self.config_keys if "." in key and key.split(".")[0] not in NEUTRAL]
        return [key for key in FIRST if key in dotted] + sorted(set(dotted) - {*FIRST, *NEUTRAL})

    @cached_property
    def texts(self) -> pd.DataFrame:
        """The columns of :attr:`varied` for the setting keys, in the order of :attr:`setting_keys`."""
        return self.varied[[key for key in self.setting_keys if key in self.varied]]

    @cached_property
    def keys(self) -> list[str]:
        """The fewest config keys that tell the settings apart, without the seed.

        A key is left out if its value follows from the keys before it, for example rho if each method has its own rho.
        """
        kept = [METHOD]
        varied = [METHOD] if METHOD in self.texts else []
        groups = self.runs[METHOD].nunique()
        for key in (str(key) for key in self.texts if key != METHOD):
            parts = len(self.texts[[*varied, key]].drop_duplicates())
            if parts > groups:
                kept, varied, groups = [*kept, key], [*varied, key], parts
        return kept

    # -------------------------------------------------------------------------------------- ties

    def ties(self, by: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Return {key of `by`: other config keys that change together with it}, among the finished runs.

        A difference between the groups that `by` names may then be due to the other keys. `by` is :attr:`keys` if it is
        None. The optimizer's own keys belong to the method and are not named beside it.
        """
        done = self.finished.known
        if done.runs.empty:
            return {}
        return done._own_ties if by is None else done._ties(by)

    @cached_property
    def _own_ties(self) -> dict[str, list[str]]:
        return self._ties(self.keys)

    def _ties(self, by: Sequence[str]) -> dict[str, list[str]]:
        method = [key for key in by if key == METHOD]
        refining = [key for key in by if key not in method]
        found: dict[str, list[str]] = {}
        for other in map(str, self.texts):
            if other in by or not self._follows(other, by):
                continue
            if method and self._follows(other, method):
                bound = [] if other.startswith("optimizer.") else method
            else:
                single = [key for key in refining if self._follows(other, [*method, key])]
                bound = single or refining  # if no key decides alone, all of them together do
            for key in bound:
                found.setdefault(key, []).append(other)
        return found

    def _follows(self, key: str, of: Sequence[str]) -> bool:
        """Return whether the values of the keys `of` determine the value of `key`."""
        texts = self._texts_of(of)
        if texts.empty:  # all runs agree in the keys `of`, and `key` has several values
            return False
        return len(texts.assign(**{key: self.texts[key]}).drop_duplicates()) == len(texts.drop_duplicates())

    def _texts_of(self, keys: Sequence[str]) -> pd.DataFrame:
        """Return the texts of those `keys` that vary, and of all `keys` that are not config keys."""
        others = {key: as_text(self.runs[key]) for key in keys if key not in self.config_keys}
        return pd.DataFrame({**{key: self.varied[key] for key in keys if key in self.varied}, **others})

    def tie_words(self, by: Sequence[str] | None = None) -> list[str]:
        """Return :meth:`ties` in words: `train.epochs changes together with model.width`."""
        lines = []
        for key, others in self.ties(by).items():
            change = "changes" if len(others) == 1 else "change"
            lines.append(f"{', '.join(others[:MAX_NAMED])}{more(others)} {change} together with {key}")
        return lines

    def tie_notes(self, by: Sequence[str] | None = None) -> list[str]:
        """Return a line for each tie, for the text below a table or chart."""
        return [f"{words}: a difference between its values may be due to either." for words in self.tie_words(by)]

    # ------------------------------------------------------------------------- values and their table

    @cached_property
    def families(self) -> dict[str, list[str]]:
        """{family: columns of measured values}. The values of one family depend on the same conventions.

        See :func:`~fsamlab.metrics.family`.
        """
        found: dict[str, list[str]] = {}
        for column in map(str, self.runs.columns):
            kind = family(column) if "/" in column and not is_convention(column) else None
            if kind is not None:
                found.setdefault(kind, []).append(column)
        return found

    def settings(self, metrics: Sequence[str] | None = None, against: str = EQUAL) -> pd.DataFrame:
        """Return one row for each setting, over the finished runs without repetitions.

        `metrics` are columns of the summary; None means the headline metric on test data, at the best epoch and at the
        end. The columns of the table are those of :func:`~fsamlab.results.by_setting.by_setting`, the differences are
        those to `against`: SGD at equal compute, or a method. Without finished runs the table is empty.
        """
        done = self.finished.distinct
        if metrics is None:
            metrics = [key for headline in done.headlines for key in (headline.at_best, headline.at_end)]
        if done.runs.empty:
            return pd.DataFrame()
        return by_setting(done.runs, done.keys, metrics, done.headlines, against)


Runs: TypeAlias = "pd.DataFrame | Study"  # figures and tables take either


def warn_caller(text: str) -> None:
    """Warn, with the location of the caller outside of this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(("fsamlab.", "functools")):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
