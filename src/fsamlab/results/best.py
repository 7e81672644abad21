"""Each method at the setting that validation data choose, with what a reader must know of the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab import metrics
from fsamlab.config import SCHEMAS, ConfigError, did_you_mean
from fsamlab.metrics.objective import PLACES, objective_column
from fsamlab.results.choice import Ranking, ranking
from fsamlab.results.frames import methods_of
from fsamlab.results.methods import label
from fsamlab.results.settings import MAX_NAMED, METHOD, as_text, more, numbers, plain, values_of
from fsamlab.results.study import Study
from fsamlab.terminal.text import counted, quantity, spread

# Keys of data that are a part of the method. All other keys of data, model and task say what is compared: a validation
# metric does not choose among them.
OF_THE_METHOD = ("data.batch_size", "data.drop_last", "data.augment.")
WORDS = {"best": "at the best epoch", "last": "at the last epoch"}


@dataclass(frozen=True)
class Chosen:
    """The setting that validation data choose for one method.

    Attributes:
        group: {key: value} of the keys that tell the methods apart.
        directory: a run of the setting.
        setting: {key: value} of the keys in which the tried settings differ.
        tried: the number of settings that have finished runs.
        column: the column of the summary that chose.
        mean, std: of the column over `seeds`; NaN where there was nothing to choose and the runs do not have it.
        percent: whether the column is shown in per cent.
        seeds: the seeds that all settings have.
        trained: all seeds of the chosen setting.
        second: the setting with the second mean, and its mean; None without a rival.
        notes: lines that a reader must know.
    """

    group: dict[str, Any]
    directory: Path
    setting: dict[str, Any]
    tried: int
    column: str
    mean: float
    std: float
    percent: bool
    seeds: list[int]
    trained: list[int]
    second: tuple[dict[str, Any], float] | None
    notes: list[str]

    @property
    def title(self) -> str:
        """The method in words."""
        words = [label(str(value)) if key == METHOD else f"{key} {plain(value)}" for key, value in self.group.items()]
        return ", ".join(words)

    @property
    def value(self) -> str:
        """The mean and its standard deviation."""
        return spread(self.mean, self.std, self.percent) + (" %" if self.percent else "")

    @property
    def runner_up(self) -> str:
        """The second setting and its mean; empty without a rival."""
        if self.second is None:
            return ""
        return f"{named(self.second[0])}: {quantity(self.second[1], self.percent)}" + (" %" if self.percent else "")


def named(setting: dict[str, Any]) -> str:
    """Return `optimizer.rho 0.1, optimizer.lr 0.05`."""
    return ", ".join(f"{key} {plain(value)}" for key, value in setting.items())


def chosen(study: Study, by: Sequence[str] = (METHOD,), metric: str | None = None, at: str = "last") -> list[Chosen]:
    """Return each method at its setting with the best mean validation metric over the seeds that its settings share.

    Args:
        study: the runs. Only finished runs count.
        by: the config keys that tell the methods apart, or names of groups (`optimizer`). Keys of data, model and task
            in which the runs differ are added: these say what is compared.
        metric: `val/NAME`; None means the headline metric.
        at: `last` or `best`, the epoch.

    Raises:
        ConfigError: a key or the metric cannot be used, no run has finished, or runs do not allow a choice.
    """
    done = study.finished.distinct.known
    if done.runs.empty:
        raise ConfigError("runs", len(study.runs), "none has finished; `fsamlab status` says how far they are")
    keys = _keys(done, by)
    found = []
    for part in done.by_headline:
        column = _column(part, metric, at)
        texts = pd.DataFrame({key: as_text(part.runs[key]) for key in keys})
        groups = part.runs.groupby([texts[key] for key in keys], sort=False)
        found += [
            _choose(part.where(part.runs.index.to_series().isin(rows.index)), keys, column, at) for _, rows in groups
        ]
    order = methods_of(done.runs)
    found.sort(key=lambda one: order.index(one.group[METHOD]) if METHOD in one.group else 0)
    return found


def _keys(done: Study, by: Sequence[str]) -> list[str]:
    """Return the keys that tell the methods apart: those of `by`, and what else says what is compared."""
    keys = []
    for given in by:
        key = f"{given}.name" if given in SCHEMAS else given
        if key not in done.config_keys or key == "seed":
            raise ConfigError("--by", given, f"is no key of the runs' settings{did_you_mean(given, done.config_keys)}")
        keys.append(key)
    varied, groups = done.varied[[key for key in keys if key in done.varied]], 0
    groups = len(varied.drop_duplicates())
    for key in map(str, done.texts):
        compared = key.split(".")[0] in ("data", "model", "task") and not key.startswith(OF_THE_METHOD)
        if compared and key not in keys:
            more_of = varied.assign(**{key: done.texts[key]})
            if (parts := len(more_of.drop_duplicates())) > groups:
                keys, varied, groups = [*keys, key], more_of, parts
    return keys


def _column(part: Study, metric: str | None, at: str) -> str:
    try:
        column = objective_column(metric, part.headline, at)
    except ValueError as e:
        raise ConfigError("--metric", metric, str(e)) from None
    if metric is not None and column not in part.runs:
        known = sorted(c.removeprefix(PLACES[at]) for c in map(str, part.runs) if c.startswith(f"{PLACES[at]}val/"))
        has = f"the runs have {', '.join(known)}" if known else "the runs have no validation split (data.val_size)"
        raise ConfigError("--metric", metric, f"is no metric of these runs; {has}{did_you_mean(metric, known)}")
    if metrics.of(column, part.headlines).better is None:
        raise ConfigError(
            "--metric", metric, "does not say whether higher or lower values are better; choose another one"
        )
    return column


def _choose(group: Study, keys: Sequence[str], column: str, at: str) -> Chosen:
    """Return the choice among the settings of one method."""
    runs = group.runs
    identity = {key: runs[key].iloc[0] for key in keys}
    what = ", ".join(f"{key}={plain(value)}" for key, value in identity.items())
    varied = [
        key for key in group.keys if key in group.texts and key not in keys
    ]  # the fewest that tell settings apart
    number, settings = _settings(group, varied)
    headlines = group.headlines
    higher, percent = metrics.higher_is_better(column, headlines), metrics.of(column, headlines).percent
    narrow = pd.DataFrame({"seed": runs["seed"], "setting": number})
    for name in {column, _other(column)} & set(map(str, runs.columns)):
        narrow[name] = numbers(runs[name])
    notes: list[str] = []
    if len(settings) > 1:
        try:
            ranked = ranking(narrow, number, column, higher, what, " and ".join(varied) or "its settings")
        except ValueError as e:
            words = str(e).removeprefix(what).removeprefix(":").strip()
            raise ConfigError(keys[0], plain(identity[keys[0]]), words) from None
        notes += _notes(group, narrow, ranked, settings, varied)
        other = _other_choice(narrow, ranked, column, higher)
        if other is not None:
            where = WORDS["last" if at == "best" else "best"]
            notes.append(f"{where} validation would choose {named(settings[other])}")
        best, seeds, std = int(ranked.means.index[0]), ranked.seeds, float(ranked.stds[ranked.means.index[0]])
        mean = float(ranked.means.iloc[0])
    else:
        best, ranked, seeds = 0, None, sorted(runs["seed"])
        values = narrow[column] if column in narrow else pd.Series(dtype=float)
        mean, std = float(values.mean()), float(values.std())
        notes.append("one setting was tried, so there was nothing to choose")
    of_best = runs[number == best].sort_values("seed")
    second = None
    if ranked is not None and len(ranked.means) > 1:
        second = settings[int(ranked.means.index[1])], float(ranked.means.iloc[1])
    return Chosen(
        identity,
        Path(of_best["directory"].iloc[0]),
        settings[best],
        len(settings),
        column,
        mean,
        std,
        percent,
        [int(seed) for seed in seeds],
        [int(seed) for seed in of_best["seed"]],
        second,
        notes,
    )


def _settings(group: Study, varied: Sequence[str]) -> tuple[pd.Series, list[dict[str, Any]]]:
    """Return the number of each run's setting, and the settings, those with smaller values first."""
    runs = group.runs
    texts = group.texts[list(varied)].apply(tuple, axis=1) if varied else pd.Series([()] * len(runs), index=runs.index)
    firsts = runs[~texts.duplicated()]
    settings = [{key: runs.at[place, key] for key in varied} for place in firsts.index]
    order = sorted(range(len(settings)), key=lambda i: [_sortable(value) for value in settings[i].values()])
    place_of = {texts[firsts.index[i]]: place for place, i in enumerate(order)}
    return texts.map(lambda text: place_of[text]).astype(int), [settings[i] for i in order]


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return 0, float(value), ""
    return 1, 0.0, plain(value)


def _other(column: str) -> str:
    """Return the column with the same metric at the other epoch."""
    best, last = PLACES["best"], PLACES["last"]
    return last + column.removeprefix(best) if column.startswith(best) else best + column.removeprefix(last)


def _other_choice(runs: pd.DataFrame, ranked: Ranking, column: str, higher: bool) -> int | None:
    """Return the setting that the other epoch would choose, if it is another one."""
    other = _other(column)
    if other not in runs or runs[other].isna().all():
        return None
    found = int(ranking(runs, runs["setting"], other, higher, "", "").means.index[0])
    return None if found == ranked.means.index[0] else found


def _notes(
    group: Study, runs: pd.DataFrame, ranked: Ranking, settings: Sequence[dict[str, Any]], varied: Sequence[str]
) -> list[str]:
    """Return what a reader must know: ties, seeds that do not count, the ends of the tried values."""
    best = ranked.means.index[0]
    notes = []
    equal = [int(i) for i in ranked.means.index[1:] if ranked.means[i] == ranked.means[best]]
    if equal:
        words = "; ".join(named(settings[i]) for i in equal[:MAX_NAMED]) + more([""] * len(equal))
        notes.append(f"the same mean has {words}: the first one was taken")
    left = sorted({int(seed) for seed in runs["seed"]} - set(ranked.seeds))
    if left:
        lacking = sum(not set(left) <= set(of["seed"]) for _, of in runs.groupby("setting"))
        seeds = ", ".join(map(str, left[:MAX_NAMED])) + more([""] * len(left))
        notes.append(
            f"seeds that do not count: {seeds}; {lacking} of {len(settings)} settings have not finished with them"
        )
    for key in varied:
        tried = sorted(values_of(group.runs, key).dropna().unique()) if _is_number(group.runs[key]) else []
        value = settings[best][key]
        if len(tried) > 1 and value in (tried[0], tried[-1]) and value != 0:
            side = "smallest" if value == tried[0] else "largest"
            notes.append(
                f"{key} {plain(value)} is the {side} value tried: extend the grid, a better one may lie beyond"
            )
    return notes


def _is_number(values: pd.Series) -> bool:
    found = [value for value in values if value is not None and value == value]
    return bool(found) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)


def unfinished(study: Study) -> str:
    """Return a line about the runs that do not count because they have not finished; empty if all have."""
    counts = study.runs["status"][study.runs["status"] != "finished"].value_counts()
    if counts.empty:
        return ""
    kinds = ", ".join(f"{n} {status}" for status, n in counts.items())
    return f"{counts.sum()} of {counted(len(study.runs), 'run')} do not count, because they have not finished: {kinds}"


def is_known(value: float) -> bool:
    """Return whether a mean is a number."""
    return not math.isnan(value)
