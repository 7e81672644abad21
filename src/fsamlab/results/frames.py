"""Means over seeds, and the checks of what may be averaged.

A mean is taken only over finished runs of one setting, with each seed once. Other runs are refused with an error that
names the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fsamlab.metrics import CLASSIFICATION, OF_A_STEP, RATIOS, family, is_measured, of
from fsamlab.results.by_setting import over_seeds
from fsamlab.results.methods import METHODS
from fsamlab.results.settings import METHOD, as_text, numbers
from fsamlab.results.study import Runs, Study

AT_END, AT_BEST = CLASSIFICATION.at_end, CLASSIFICATION.at_best


def methods_of(runs: pd.DataFrame) -> list[str]:
    """Return the methods of a frame in the order of METHODS; unknown methods come last."""
    known = {name: i for i, name in enumerate(METHODS)}
    return sorted(runs[METHOD].unique(), key=lambda name: (known.get(name, len(known)), name))


def _check_runs(runs: pd.DataFrame) -> None:
    if "status" not in runs and not runs.empty:
        raise ValueError("a frame with a row for each step stands where the runs belong; are the two exchanged?")


def finished(runs: Runs) -> Study:
    """Return the study of the finished runs.

    Raises:
        ValueError: no run has finished, or the frame is not a frame of runs.
    """
    study = Study.of(runs)
    _check_runs(study.runs)
    if study.runs.empty or not (study.runs["status"] == "finished").any():
        raise ValueError("no finished run among these; `fsamlab status` says how far they are")
    return study.finished


def comparable(runs: Runs, by: Sequence[str], methods: Sequence[str] | None = None) -> Study:
    """Return the study of the finished runs, after a check that runs of one setting differ only in the seed.

    Args:
        runs: a study, or its frame of runs.
        by: the config keys that tell the settings apart.
        methods: keep only these methods; None keeps all.

    Raises:
        ValueError: there is no finished run, no run has a key of `by`, runs of one setting differ in another key, or a
            setting has a seed twice.
    """
    study = finished(runs)
    if methods is not None:
        study = study.where(study.runs[METHOD].isin(methods))
        if study.runs.empty:
            raise ValueError(f"no finished run of {', '.join(methods)} among these")
    done = study.runs
    absent = [key for key in by if key not in done or done[key].isna().all()]
    if absent:
        raise ValueError(f"no run has {absent[0]}; is that the sweep that varies it?")
    varied = study.texts
    others = [str(key) for key in varied if key not in by]
    each = list(dict.fromkeys([*by, "seed"]))
    texts = pd.concat([done[each].apply(as_text), varied[others]], axis=1)
    groups = texts.groupby(list(by))
    for key in others:
        if (groups[key].nunique() > 1).any():
            found = next(sorted(values) for values in groups[key].unique() if len(values) > 1)
            raise ValueError(
                f"runs of one {' and '.join(by)} differ in {key} ({', '.join(found)}): no mean over them; "
                f"choose one, runs[runs[{key!r}] == ...]"
            )
    for _, same in done.groupby([texts[key] for key in each]):
        if len(same) > 1:
            raise ValueError(f"the same setting and seed more than once: {', '.join(same['directory'])}")
    return study


def having_key(runs: Runs, key: str | None) -> Study:
    """Return the study of the runs that have a value of a config key; of all runs if no run has the key."""
    study = Study.of(runs)
    return study.where(study.runs[key].notna()) if key in study.runs else study


def need(runs: Runs, methods: Sequence[str], sweep: str) -> None:
    """Check that each of `methods` has a finished run.

    Raises:
        ValueError: a method is missing; the message names the sweep that makes its runs.
    """
    frame = Study.of(runs).runs
    _check_runs(frame)
    finished = set(frame.loc[frame["status"] == "finished", METHOD]) if len(frame) else set()
    missing = [method for method in methods if method not in finished]
    if missing:
        raise ValueError(
            f"no finished run of {', '.join(missing)}; `python launch.py -m +sweeps={sweep}` makes all that is shown"
        )


def averaged_columns(column: str) -> tuple[str, ...]:
    """Return the columns to average for a mean of `column`: the column, or a ratio's numerator and denominator."""
    return RATIOS.get(column, (column,))


def with_values(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows that have a finite value of `column` (for a ratio, of both parts), with the values as floats."""
    parts = list(averaged_columns(column))
    if not set(parts) <= set(frame.columns):
        return frame.iloc[:0].assign(**{part: 0.0 for part in parts})
    frame = frame.assign(**{part: numbers(frame[part]) for part in parts})
    return frame[frame[parts].notna().all(axis=1)]


def means(frame: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Return one row for each setting that has a finite value: the keys `by`, and mean, std (n - 1) and n of a column.

    Values that are not finite count as missing. The mean of a ratio is the ratio of the means, without std, because
    outliers would dominate a mean of ratios. It is NaN if the mean of the denominator is not positive.
    """
    above, *below = averaged_columns(column)
    groups = with_values(frame, column).groupby(list(by), sort=True, dropna=False)
    table = over_seeds(groups[above])
    if below:
        under = groups[below[0]].mean()
        table = table.assign(mean=table["mean"] / under.where(under > 0), std=np.nan)
    return table.reset_index()


def mean_std(runs: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Return :func:`means` for the settings that have a mean.

    Raises:
        ValueError: no setting has a mean.
    """
    table = means(runs, by, column)
    table = table[table["mean"].notna()].reset_index(drop=True)
    if table.empty:
        raise ValueError(why_none(runs, column))
    return table


def why_none(frame: pd.DataFrame, column: str) -> str:
    """Return the reason why no setting has a mean of a column."""
    for part in averaged_columns(column):
        if part not in frame or frame[part].isna().all():
            return f"no run has {part}; {advice(part)}"
    if len(with_values(frame, column)):
        return f"{column} has no value: the mean of {averaged_columns(column)[1]} is nowhere positive"
    return f"{column} is not finite in any run"


def history(rows: pd.DataFrame, runs: Runs, key: str, by: str = METHOD) -> tuple[pd.DataFrame, dict[object, float]]:
    """Return a metric over training, and where its lines end.

    The first result has a row for each value of `by` and each epoch, with mean, std (n - 1) and n over seeds as in
    :func:`means`. Only finished runs count. An epoch is left out if a run of the setting that has finite values
    elsewhere has none there, because a mean over fewer seeds would jump. The second result is {value of `by`: the last
    epoch at which a run has the key}.

    The values are those of training, or, if training has none, those of `fsamlab measure`.

    Args:
        rows: the rows of a study.
        runs: a study of the same directories, or its frame of runs.
        key: a key of docs/metrics.md; with `measured/` before it, the values of `fsamlab measure`.
        by: a config key; runs without it are left out.

    Raises:
        ValueError: as in :func:`comparable`; or no row has the key, or no epoch has a value, or the values were
            measured under different conventions.
    """
    done = comparable(having_key(runs, by), [by]).runs
    rows = rows[rows["directory"].isin(done["directory"])] if len(rows) else rows
    sources = ["measured/"] if key.startswith("measured/") else ["", "measured/"]
    key = key.removeprefix("measured/")
    source = next((s for s in sources if s + key in rows and rows[s + key].notna().any()), None)
    if source is None:
        raise ValueError(f"no finished run has rows with {key}; {advice(key)}")
    column = source + key
    having = rows[rows[column].notna()].merge(done[list({"directory", "seed", by})], on="directory")
    found = with_values(having, column).drop_duplicates(["directory", "epoch"], keep="last")
    if found.empty:
        raise ValueError(why_none(having, column))
    # a row of `fsamlab measure` holds its conventions; those of training stand in the run's summary
    check_conventions(found if source else done[done["directory"].isin(found["directory"])], [key], source, by)
    table = means(found, [by, "epoch"], column)
    everyone = found.groupby(by)["directory"].nunique()
    table = table[table["n"] == table[by].map(everyone)].reset_index(drop=True)
    if table.empty:
        raise ValueError(f"no epoch has {column} in all runs of a setting")
    if table["mean"].isna().all():
        raise ValueError(why_none(found, column))
    return table, having.groupby(by)["epoch"].max().to_dict()


def end_columns(runs: pd.DataFrame, keys: Sequence[str], by: str = METHOD) -> dict[str, str]:
    """Return {key: column of `runs`} for values at the end of training, all from one source.

    The source is `fsamlab measure` if it has measured any of the keys, otherwise training. Keys that no run has are
    left out.

    Raises:
        ValueError: no key was measured, or the values were measured under different conventions.
    """
    for source, prefix in (("measured/", "measured/"), ("", "final/")):
        found = {key: prefix + key for key in keys if prefix + key in runs and runs[prefix + key].notna().any()}
        if found:
            having = runs[runs[list(found.values())].notna().any(axis=1)]
            check_conventions(having, list(found), source, by)
            return found
    others = f" or any of {len(keys) - 1} others like it" if len(keys) > 1 else ""
    raise ValueError(f"no run has {keys[0]}{others}; {advice(keys[0])}")


def convention_columns(runs: pd.DataFrame, source: str = "") -> list[str]:
    """Return the columns of `runs` that hold conventions of measured values; `source` is "" or "measured/"."""
    return [c for c in runs.columns if str(c).startswith(f"{source}diagnostics/")]


def check_conventions(runs: pd.DataFrame, keys: Sequence[str], source: str = "", by: str = METHOD) -> None:
    """Check that measured values may be compared (docs/metrics.md, conventions).

    Runs with the same seed must have been measured on the same samples, and all runs with the same settings. If `by` is
    not the method, only runs with the same value of `by` have to agree, because the varied key (a batch size) can be a
    convention too.

    Raises:
        ValueError: values differ in a convention; the message names the convention and its values.
    """
    bound = [key for key in keys if is_measured(key)]
    if not bound:
        return
    families = {family(source + key) for key in bound}
    for column in convention_columns(runs, source):
        name = column.split("/")[-1]
        if family(column) not in families:
            continue
        if name == "perturbation_rho" and not any("/rise_" in key for key in bound):
            continue
        if name == "sample_hash" and by == METHOD:
            groups = [group for _, group in runs.groupby("seed")]
        else:
            groups = [runs] if by == METHOD else [group for _, group in runs.groupby(list({by, "seed"}))]
        more = " diagnostics.perturbation_rho=0.1" if name == "perturbation_rho" else ""
        for group in groups:
            values = sorted(as_text(group[column]).unique())
            if len(values) > 1:
                raise ValueError(
                    f"{bound[0]} was measured with different {name} ({', '.join(values)}): not comparable; "
                    f"measure all of them alike, `fsamlab measure RUNS diagnostics=full{more}`"
                )


def advice(key: str) -> str:
    """Return what a user can do to get the values of a metric's key or summary column."""
    key = key.removeprefix("measured/").removeprefix("final/")
    if key.startswith("best/"):
        return "it needs a validation split, data.val_size above 0"
    if of(key).family == OF_A_STEP:
        return "diagnostics=light records it where the method has it (not diagnostics=off)"
    if key.startswith(("perturbation/", "noise/")):
        return "train with diagnostics=paper or full, or `fsamlab measure RUNS diagnostics=paper`"
    if is_measured(key):
        return "train with diagnostics=full, or `fsamlab measure RUNS diagnostics=full`"
    return "docs/metrics.md lists the keys"
