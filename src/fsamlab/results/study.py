"""One study: the frames of the runs that a page, a figure or a table is made of, and what follows from the frames.

Everything is computed when it is first asked for, and once. Page, figures, notebooks and terminal use the same object,
so that all of them agree on what a setting is and on what may be averaged.
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
from fsamlab.results.reading import read_run_rows
from fsamlab.results.settings import MAX_NAMED, METHOD, as_text, by_setting, more

FIRST = (METHOD, "model.name", "data.name")  # the keys that name a method, before those that refine it


@dataclass(frozen=True, eq=False)
class Study:
    """Runs and what follows from them. A study unpacks as its two frames: `runs, rows = study`.

    The frames must not be changed: results that were computed from them stay.

    Attributes:
        runs: a row for each run, as :func:`~fsamlab.results.reading.collect` returns them.
        notes: what a reader must know of the runs, such as directories that are not shown.
    """

    runs: pd.DataFrame
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, runs: Runs) -> Study:
        """Return the study of a frame of runs; a study is returned as it is, with what it has computed."""
        return runs if isinstance(runs, Study) else cls(runs)

    def where(self, kept: pd.Series) -> Study:
        """Return the study of the runs for which `kept` is true; where all are kept, this study itself.

        Nothing that this study has computed is computed again then.
        """
        return self if kept.all() else Study(self.runs[kept])

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return iter((self.runs, self.rows))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row for each row of metrics of the runs, with the run's `directory`; read when first asked for.

        The values that `fsamlab measure` found at a step are a row of their own, with the keys `measured/...`. The
        content of a damaged file is left out with a warning.
        """
        rows: list[dict[str, Any]] = []
        for run in self.runs.to_dict("records"):
            directory = run["directory"]
            found = read_run_rows(Path(directory))
            for damage in (line for line in found.damage if line not in str(run.get("exception"))):  # else said before
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
        """The runs, each once: of a run that lies in two sweeps the first."""
        if "run_id" not in self.runs:
            return self
        return self.where(self.runs["run_id"].isna() | ~self.runs["run_id"].duplicated())

    @cached_property
    def known(self) -> Study:
        """The runs whose configuration is known: a damaged run may have none."""
        return self if self.runs.empty else self.where(self.runs[METHOD] != "unknown")

    # ---------------------------------------------------------------------------------- headline

    @cached_property
    def headlines(self) -> tuple[Headline, ...]:
        """What the tasks of the runs declare of their headline metrics, each once, in order of appearance."""
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
            ValueError: the runs have several.
        """
        if len(self.headlines) > 1:
            names = " and ".join(headline.name for headline in self.headlines)
            raise ValueError(f"these runs have different headline metrics, {names}: give runs of one task, or a metric")
        return self.headlines[0]

    @cached_property
    def by_headline(self) -> list[Study]:
        """A study for each of :attr:`headlines`; this study itself where there is one."""
        if len(self.headlines) == 1:
            return [self]
        each = pd.Series(self._headline_of_each, index=self.runs.index)
        return [self.where(each == headline) for headline in self.headlines]

    # ---------------------------------------------------------------------------------- settings

    @cached_property
    def config_keys(self) -> list[str]:
        """The keys of the configurations, dotted; `name` and `seed` are among them."""
        return [c for c in map(str, self.runs.columns) if "/" not in c and ("." in c or c in ("name", "seed"))]

    @cached_property
    def varied(self) -> pd.DataFrame:
        """The values of the config keys as texts, of all keys that have more than one value."""
        texts = {key: as_text(self.runs[key]) for key in self.config_keys}
        return pd.DataFrame({key: text for key, text in texts.items() if text.nunique() > 1}, index=self.runs.index)

    @cached_property
    def setting_keys(self) -> list[str]:
        """The config keys that can change the trained weights, seeds left out; the keys in FIRST come first."""
        dotted = [key for key in self.config_keys if "." in key and key.split(".")[0] not in NEUTRAL]
        return [key for key in FIRST if key in dotted] + sorted(set(dotted) - {*FIRST, *NEUTRAL})

    @cached_property
    def texts(self) -> pd.DataFrame:
        """The columns of :attr:`varied` that are setting keys, in the order of :attr:`setting_keys`."""
        return self.varied[[key for key in self.setting_keys if key in self.varied]]

    @cached_property
    def keys(self) -> list[str]:
        """The fewest config keys that tell the settings apart, seeds left out.

        A key that follows from those before it (rho, where each method has its own) is left out.
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
        """Return what else changes, in the finished runs, with each of the keys `by` that name groups.

        A difference between the groups may be due to that as well. `by` are :attr:`keys` where none are given. What
        the optimizer's own keys are for each method belongs to the method, and is not named.
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
                bound = single or refining  # of several together where none alone decides
            for key in bound:
                found.setdefault(key, []).append(other)
        return found

    def _follows(self, key: str, of: Sequence[str]) -> bool:
        """Return whether the values of the keys `of` decide that of `key`."""
        texts = self._texts_of(of)
        if texts.empty:  # all runs agree in the keys `of`, and `key` has several values
            return False
        return len(texts.assign(**{key: self.texts[key]}).drop_duplicates()) == len(texts.drop_duplicates())

    def _texts_of(self, keys: Sequence[str]) -> pd.DataFrame:
        """Return the texts of those keys that vary; a column that is no config key is always there."""
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
        """Return what stands below a table or a chart whose groups differ in more than their names say; a line each."""
        return [f"{words}: a difference between its values may be due to either." for words in self.tie_words(by)]

    # ------------------------------------------------------------------------- values and their table

    @cached_property
    def families(self) -> dict[str, list[str]]:
        """The columns of measured values by :func:`~fsamlab.metrics.family`.

        The values of one family depend on the same conventions.
        """
        found: dict[str, list[str]] = {}
        for column in map(str, self.runs.columns):
            kind = family(column) if "/" in column and not is_convention(column) else None
            if kind is not None:
                found.setdefault(kind, []).append(column)
        return found

    def settings(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Return one row for each setting of the finished runs, each run once.

        `metrics` are columns of the summary; None takes the headline metric on test data, at the best epoch and at the
        end. The columns are those of :func:`~fsamlab.results.settings.by_setting`; without finished runs there are
        none.
        """
        done = self.finished.distinct
        if metrics is None:
            metrics = [key for headline in done.headlines for key in (headline.at_best, headline.at_end)]
        return pd.DataFrame() if done.runs.empty else by_setting(done.runs, done.keys, metrics, done.headlines)


Runs: TypeAlias = "pd.DataFrame | Study"  # what figures and tables are made of


def warn_caller(text: str) -> None:
    """Warn at the line outside of this package that asked for the runs."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(("fsamlab.", "functools")):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
