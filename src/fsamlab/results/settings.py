"""Run directories -> one tidy frame (a row each) -> means and spreads over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fsamlab.config.identity import NEUTRAL
from fsamlab.rundir.find import current_status, read_whole
from fsamlab.rundir.measurements import latest, read_measurements
from fsamlab.rundir.reading import read_config, read_summary
from fsamlab.rundir.rows import read_rows
from fsamlab.terminal.text import percent

ACCURACIES = ("best/test/acc1", "final/test/acc1")
FIRST = ("optimizer.name", "model.name", "data.name")  # what names a method, before what refines it


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def collect(directories: Iterable[Path]) -> pd.DataFrame:
    """Return one row for each run: config keys (dotted), summary keys (with slashes), status, directory.

    What `fsamlab measure` found at a run's last measured step is there as `measured/...`.
    """
    return pd.DataFrame([collect_run(directory) for directory in directories])


def collect_run(directory: Path) -> dict[str, Any]:
    """Return a run's row of :func:`collect`.

    What a damaged file holds is left out; then `status` is `damaged`, and `exception` names the file and what to do.
    """
    damage: list[str] = []
    row: dict[str, Any] = {"directory": str(directory)}
    if (directory / "config.yaml").exists():
        row.update(flatten(read_whole(read_config, directory, damage) or {}))
    row.update(read_whole(read_summary, directory, damage) or {})
    row.update({f"measured/{key}": value for key, value in (read_whole(latest, directory, damage) or {}).items()})
    status = current_status(directory)
    row.update({key: status.get(key) for key in ("run_id", "status", "exception")})
    if damage:
        words = [str(status["exception"])] if status["status"] == "damaged" else []
        row.update(status="damaged", exception="; ".join([*words, *damage]))
    return row


def collect_rows(directories: Iterable[Path]) -> pd.DataFrame:
    """Return one row for each row of metrics.jsonl, in order, with the run's `directory` in the first column.

    What `fsamlab measure` found at a step is a row of its own, its keys as `measured/...`.
    """
    rows: list[dict[str, Any]] = []
    for directory in directories:
        rows += [{"directory": str(directory), **row} for row in rows_of(directory)]
    return pd.DataFrame(rows)


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """Return a run's rows of metrics.jsonl, and those of `fsamlab measure` with their keys as `measured/...`.

    Raises:
        Damaged: a line is no JSON object.
    """
    return [*read_rows(directory), *map(measured_row, read_measurements(directory))]


def measured_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `fsamlab measure` as it stands beside training's: step, epoch, and its keys as `measured/...`."""
    values = {f"measured/{key}": value for key, value in row.items() if "/" in key}
    return {"step": row["step"], "epoch": row["epoch"], **values}


def numbers(values: pd.Series) -> pd.Series:
    """Return values as floats, NaN where one is missing or infinite: neither may enter a mean."""
    found = pd.to_numeric(values, errors="coerce").astype(float)
    return found.where(found.abs() < math.inf)


def setting_keys(frame: pd.DataFrame) -> list[str]:
    """Return the config keys of a frame that can change the trained weights, seeds left out; FIRST come first."""
    dotted = [c for c in frame.columns if "." in str(c) and "/" not in str(c)]
    ordered = [c for c in FIRST if c in dotted] + sorted(set(dotted) - set(FIRST))
    return [c for c in ordered if c not in NEUTRAL and c.split(".")[0] not in NEUTRAL]


def as_text(values: pd.Series) -> pd.Series:
    """Return config values as texts, to tell settings apart; a missing one is a text too.

    `astype(str)` keeps missing values missing from pandas 3 on, and neither groupby nor nunique counts those.
    """
    return values.map(lambda value: "null" if value is None or value != value else str(value))


def plain(value: Any) -> str:
    """Return a config value as it is typed, for a table; one that is missing or None is null."""
    if value is None or value != value:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def varied_keys(frame: pd.DataFrame) -> list[str]:
    """Return the fewest config keys that tell the settings of a frame apart, seeds left out.

    A key that follows from those before it (rho, where each method has its own) is left out.
    """
    kept = ["optimizer.name"]
    groups = frame["optimizer.name"].nunique()
    for key in [key for key in setting_keys(frame) if key != kept[0]]:
        parts = frame[[*kept, key]].apply(as_text).drop_duplicates()
        if len(parts) > groups:
            kept, groups = [*kept, key], len(parts)
    return kept


def tied_keys(frame: pd.DataFrame, by: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Return what else changes with each of the keys `by` that name groups.

    A difference between the groups may be due to that as well. `by` are those of :func:`varied_keys` where none are
    given. What the optimizer's own keys are for each method belongs to the method, and is not named.
    """
    kept = varied_keys(frame) if by is None else list(by)
    method = [key for key in kept if key == FIRST[0]]
    refining = [key for key in kept if key not in method]
    found: dict[str, list[str]] = {}
    for other in setting_keys(frame):
        if other in kept or as_text(frame[other]).nunique() == 1 or not _follows(frame, other, kept):
            continue
        if method and _follows(frame, other, method):
            bound = [] if other.startswith("optimizer.") else method
        else:
            single = [key for key in refining if _follows(frame, other, [*method, key])]
            bound = single or refining  # of several together where none alone decides
        for key in bound:
            found.setdefault(key, []).append(other)
    return found


MAX_NAMED = 4  # of several keys or values in a line


def more(texts: Sequence[str]) -> str:
    """Return how many of several texts are not named."""
    return f" and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""


def tied_words(frame: pd.DataFrame, by: Sequence[str] | None = None) -> list[str]:
    """Return :func:`tied_keys` of the finished runs in words, `train.epochs changes together with model.width`."""
    known = frame[(frame["status"] == "finished") & (frame["optimizer.name"] != "unknown")]
    found = tied_keys(known, by) if len(known) else {}
    lines = []
    for key, others in found.items():
        change = "changes" if len(others) == 1 else "change"
        lines.append(f"{', '.join(others[:MAX_NAMED])}{more(others)} {change} together with {key}")
    return lines


def tied_notes(frame: pd.DataFrame, by: Sequence[str] | None = None) -> list[str]:
    """Return what stands below a table or a chart whose groups differ in more than what names them; a line each."""
    return [f"{words}: a difference between its values may be due to either." for words in tied_words(frame, by)]


def _follows(frame: pd.DataFrame, key: str, of: Sequence[str]) -> bool:
    """Return whether the values of the keys `of` decide that of `key`."""
    texts = frame[[*of, key]].apply(as_text).drop_duplicates()
    return len(texts) == len(texts[list(of)].drop_duplicates())


def by_setting(frame: pd.DataFrame, metrics: Sequence[str] = ACCURACIES) -> pd.DataFrame:
    """Return one row for each setting: n, mean and standard deviation (n - 1) of `metrics`, relative step time.

    Only finished runs count, and one that is in two sweeps counts once. `... n` is the number of them that have a
    finite value of the metric. `step_vs_sgd` is the median time of a step over that of plain SGD in the same remaining
    setting, `total_vs_sgd` the same with the number of steps in it. `... vs sgd mean`, `std` and `n` are of the
    differences to SGD's runs, seed by seed, and `ahead` how many of them are positive: a seed is one draw of the
    validation split, the label noise and the initial weights, the same for all methods.
    """
    finished = frame[frame["status"] == "finished"]
    if "run_id" in finished:
        finished = finished[finished["run_id"].isna() | ~finished["run_id"].duplicated()]
    if finished.empty:
        return pd.DataFrame()
    finished = finished.assign(**{metric: numbers(finished[metric]) for metric in metrics if metric in finished})
    keys = varied_keys(finished)
    rows, members = [], []
    for values, runs in finished.groupby(keys, sort=False, dropna=False):
        row: dict[str, Any] = dict(zip(keys, values if isinstance(values, tuple) else (values,)))
        row["n"] = len(runs)
        for metric in metrics:
            if metric in runs and runs[metric].notna().any():
                row[f"{metric} mean"], row[f"{metric} std"] = runs[metric].mean(), runs[metric].std(ddof=1)
                row[f"{metric} n"] = runs[metric].count()
        row["step_ms"] = runs["cost/step_ms"].median() if "cost/step_ms" in runs else float("nan")
        row["steps"] = runs["cost/steps"].mean() if "cost/steps" in runs else float("nan")
        rows.append(row)
        members.append(runs)
    table = pd.DataFrame(rows)
    others = conditions_of(keys)
    sgd = table[table["optimizer.name"] == "sgd"]
    compared: list[dict[str, float]] = []
    for (_, setting), runs in zip(table.iterrows(), members):
        alike = (sgd[others] == setting[others]) | (sgd[others].isna() & setting[others].isna())
        same = sgd[alike.all(axis=1)]
        found = {"step_vs_sgd": setting["step_ms"] / same["step_ms"].median()}
        num_steps = same["steps"].iloc[0] if same["steps"].nunique() == 1 else float("nan")
        found["total_vs_sgd"] = found["step_vs_sgd"] * setting["steps"] / num_steps
        if len(same) == 1 and setting["optimizer.name"] != "sgd":  # of several SGDs none is the one to compare with
            for metric in metrics:
                found.update(_paired(runs, members[same.index[0]], metric))
        compared.append(found)
    return table.join(pd.DataFrame(compared))


def _paired(runs: pd.DataFrame, sgd: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return mean, standard deviation (n - 1), number and positive ones of a metric's differences, seed by seed."""
    if metric not in runs or any(frame["seed"].duplicated().any() for frame in (runs, sgd)):
        return {}
    difference = (runs.set_index("seed")[metric] - sgd.set_index("seed")[metric]).dropna()
    name = f"{metric} vs sgd"
    values = {"mean": difference.mean(), "std": difference.std(ddof=1), "n": len(difference)}
    values["ahead"] = int((difference > 0).sum())
    return {f"{name} {key}": value for key, value in values.items()} if len(difference) else {}


def own_n(n: int, told: int | None) -> str:
    """Return what stands behind a mean over n runs, where the reader was told of another n, or of none."""
    return "" if n == told else f" ({n})" if told is None else f" (n = {n})"


def gain(setting: pd.Series, metric: str) -> str:
    """Return `+3.96 ± 1.83 (3 of 3)`: the points gained over SGD, and in how many of the seeds; `-` where unknown."""
    mean, std, n, ahead = (setting[f"{metric} vs sgd {name}"] for name in ("mean", "std", "n", "ahead"))
    if math.isnan(mean):
        return "-"
    spread = "" if math.isnan(std) else f" ± {percent(std)}"
    return f"{100 * mean:+.2f}{spread} ({ahead:.0f} of {n:.0f})"


def clear_best(table: pd.DataFrame, metric: str) -> set[Any]:
    """Return the index of each setting of :func:`by_setting` that is best in `metric` by more than the spread.

    Compared are the settings that agree in all but the optimizer's keys. The best one is clear when its mean is
    above the second's by more than the larger of the two standard deviations; without both there is no answer.
    """
    mean, std = f"{metric} mean", f"{metric} std"
    if mean not in table:
        return set()
    others = conditions_of(list(table.columns[: table.columns.get_loc("n")]))
    best = set()
    for _, rivals in table.groupby(others, dropna=False) if others else [((), table)]:
        ranked = rivals[rivals[mean].notna()].sort_values(mean, ascending=False, kind="stable")
        if len(ranked) < 2:
            continue
        first, second = ranked.iloc[0], ranked.iloc[1]
        if clearly_ahead(first[mean], first[std], second[mean], second[std]):
            best.add(ranked.index[0])
    return best


def clearly_ahead(mean: float, std: float, other_mean: float, other_std: float) -> bool:
    """Return whether a mean's lead exceeds the larger of the two standard deviations; false where one is not known."""
    return not (math.isnan(std) or math.isnan(other_std)) and mean - other_mean > max(std, other_std)


def conditions_of(keys: Sequence[str]) -> list[str]:
    """Return the keys in which settings that are compared agree: all but the optimizer's (SGD has no rho)."""
    return [key for key in keys if not key.startswith("optimizer.")]
