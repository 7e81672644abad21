"""`fsamlab best`: each method's chosen setting as an option of `experiment`, and a sweep of all of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsamlab.config import Config, ConfigError, from_plain, in_range
from fsamlab.config.experiment import Experiment, experiment_of
from fsamlab.config.identity import run_id
from fsamlab.config.project import CONF, PROJECT_ROOT
from fsamlab.metrics.objective import PLACES
from fsamlab.results.best import WORDS, Chosen, chosen, named, unfinished
from fsamlab.results.collect import collect
from fsamlab.results.methods import label
from fsamlab.results.settings import METHOD
from fsamlab.results.study import Study
from fsamlab.rundir.find import runs_at
from fsamlab.rundir.reading import read_config
from fsamlab.storage.writing import write_atomic
from fsamlab.sweep.tuning.record import read_study
from fsamlab.terminal import output
from fsamlab.terminal.text import console, counted, project_relative

EXPERIMENTS, SWEEPS = Path("conf/experiment"), Path("sweeps")  # in the project's directory
FRESH_SEEDS = 10


@dataclass(frozen=True)
class Method:
    """One method: what was chosen, and the file that gives it.

    Attributes:
        choice: from validation data.
        name: the option's name.
        experiment: the content of the option.
        config: the configuration of a run of the setting.
    """

    choice: Chosen
    name: str
    experiment: Experiment
    config: Config


def best(
    sweeps: Sequence[Path],
    by: Sequence[str],
    metric: str | None,
    at: str | None,
    *,
    write: Path | None = None,
    sweep: str | None = None,
    num_seeds: int = FRESH_SEEDS,
    as_json: bool = False,
) -> int:
    """Print each method's chosen setting, and write the files that were asked for; return the exit code.

    Args:
        sweeps: directories of runs.
        by, metric, at: as in :func:`fsamlab.results.best.chosen`. Without metric and epoch the objective of a tuning
            study chooses, so that the choice is the study's own, for all runs that are given; without a study, the
            headline at the last epoch.
        write: the directory for a file of each method; None prints the files.
        sweep: the name of a sweep file of all methods; it needs the methods' files, which are written too.
        num_seeds: seeds of the sweep, none of which has chosen.
        as_json: print a JSON object in place of the files.

    Raises:
        ConfigError: no choice is possible, or a file is there already. Nothing was written.
    """
    in_range("--seeds", num_seeds, 1, 100_000)
    runs = runs_at(list(sweeps))
    if metric is None and at is None:
        metric = objective_of(runs)
    own = next((place for place, prefix in PLACES.items() if metric is not None and metric.startswith(prefix)), None)
    if own is not None and at not in (None, own):
        raise ConfigError("--at", at, f"is not the epoch of --metric {metric}; leave one of them away")
    at = own or at or "last"
    study = Study(collect(runs))
    found = methods(chosen(study, by, metric, at), sweeps)
    notes = [line for line in (unfinished(study), _without(study, found)) if line]
    files: dict[Path, str] = {}
    if write is not None or sweep is not None:
        place = PROJECT_ROOT / EXPERIMENTS if write is None else write
        files = {place / f"{one.name}.yaml": text_of(one, sweeps, at, fresh(study)) for one in found}
        if sweep is not None:
            files[PROJECT_ROOT / SWEEPS / f"{_checked(sweep)}.yaml"] = sweep_text(
                sweep, found, sweeps, fresh(study, num_seeds)
            )
        _write(files)
    if as_json:
        told = {"at": at, "notes": notes, "files": [str(path) for path in files]}
        output.show(json.dumps({**told, "methods": [as_object(one) for one in found]}, indent=1))
        return 0
    screen = console(stderr=True)
    for note in notes:
        screen.print(f"note: {note}", soft_wrap=True)
    if files:
        output.show(
            "\n".join([*(f"{one.choice.title}: {summary(one.choice)}" for one in found), *_told(files, sweep, found)])
        )
    else:
        output.show("\n".join(f"# {one.name}.yaml\n{text_of(one, sweeps, at, fresh(study))}" for one in found))
    return 0


def objective_of(runs: Sequence[Path]) -> str | None:
    """Return the column that judges the tuning studies of some runs, as `best/val/acc1`; None without a study.

    Raises:
        ConfigError: the studies are judged by different columns.
    """
    studies = [study for sweep in sorted({run.parent for run in runs}) if (study := read_study(sweep)) is not None]
    columns = sorted({group.metric for study in studies for group in study.groups if group.metric is not None})
    if len(columns) > 1:
        allowed = f"are judged by {' and '.join(columns)}; say which one chooses: --metric {columns[0]}"
        raise ConfigError("RUNS", f"{len(studies)} studies", allowed)
    return columns[0] if columns else None


def methods(choices: Sequence[Chosen], sweeps: Sequence[Path]) -> list[Method]:
    """Return the file of each choice; the file composes to the configuration of the chosen runs."""
    found = []
    for choice in choices:
        config = from_plain(read_config(choice.directory))
        found.append(Method(choice, _name(choice, sweeps), experiment_of(config), config))
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError("--by", twice, "is the name of two files; give runs of fewer sweeps, or one key fewer")
    return found


def _name(choice: Chosen, sweeps: Sequence[Path]) -> str:
    """Return `SWEEP_METHOD`, with the further values that tell methods apart; usable as the name of an option."""
    words = [sweeps[0].resolve().name]
    words += [
        str(value) if key.endswith(".name") else f"{key.rpartition('.')[2]}{value}"
        for key, value in choice.group.items()
    ]
    return re.sub(r"[^A-Za-z0-9_-]", "_", "_".join(words))[:200]


def _checked(sweep: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", sweep):
        raise ConfigError("--sweep", sweep, "must be a name of letters, digits, _ and -, at most 100 of them")
    if (CONF / "sweeps" / f"{sweep}.yaml").exists():
        raise ConfigError("--sweep", sweep, "is the name of a sweep that is there already; give another name")
    return sweep


def fresh(study: Study, number: int = FRESH_SEEDS) -> range:
    """Return seeds that no run of the study has, so that the final means do not contain what was chosen for."""
    first = 1 + max(int(seed) for seed in study.runs["seed"])
    return range(first, first + number)


def _without(study: Study, found: Sequence[Method]) -> str:
    """Return a line about methods that have no finished run; empty if there are none."""
    known = study.known.runs
    have = {one.config.optimizer.name for one in found}
    left = [label(str(name)) for name in known[METHOD].unique() if name not in have] if len(known) else []
    wins = any(METHOD not in one.choice.group for one in found)  # other methods have runs, and were not chosen
    return f"no run has finished of {', '.join(left)}" if left and not wins else ""


def summary(choice: Chosen) -> str:
    """Return a line about a choice."""
    setting = named(choice.setting) or "its only setting"
    return "; ".join([f"{setting}: {_mean(choice)}", *choice.notes])


def _mean(choice: Chosen) -> str:
    metric = choice.column.partition("/")[2]
    if math.isnan(choice.mean):
        return f"no {metric}"
    return f"{metric} {choice.value} over {counted(len(choice.seeds), 'seed')}"


def text_of(one: Method, sweeps: Sequence[Path], at: str, seeds: range) -> str:
    """Return the option file of a method, with comments on where the setting comes from."""
    choice, runs = one.choice, ", ".join(project_relative(sweep) for sweep in sweeps)
    setting = named(choice.setting)
    head = f"{choice.title}{f' with {setting}' if setting else ''}, chosen by validation data (fsamlab best)."
    lines = [head, f"From {runs}: {counted(choice.tried, 'setting')}, seeds {_listed(choice.seeds)}."]
    if not math.isnan(choice.mean):
        second = f"; the next one, {choice.runner_up}" if choice.second else ""
        lines.append(f"{_mean(choice)}, {WORDS[at]}{second}.")
    lines += [f"Note: {note}." for note in choice.notes]
    lines.append(f"Fresh seeds: python launch.py -m experiment={one.name} 'seed={_seed_words(seeds)}'")
    return one.experiment.text([line.replace("\n", " ") for line in lines], one.name)


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _seed_words(seeds: range) -> str:
    return f"range({seeds.start},{seeds.stop})"


def sweep_text(sweep: str, found: Sequence[Method], sweeps: Sequence[Path], seeds: range) -> str:
    """Return the sweep file that trains all methods at their chosen settings with fresh seeds."""
    runs = ", ".join(project_relative(directory) for directory in sweeps)
    jobs = f"{counted(len(found), 'method')} x {counted(len(seeds), 'seed')}: {len(found) * len(seeds)} runs"
    lines = [
        "# @package _global_",
        f"# Each method at the setting that validation data chose in {runs} (fsamlab best). {jobs}.",
        "# No run of the choice has one of these seeds, so the means contain nothing that was chosen for.",
        f"name: {sweep}",
        "hydra:",
        "  sweeper:",
        "    params:",
        f"      seed: {_seed_words(seeds)}",
        "    grids:",
    ]
    return "\n".join([*lines, *(f"      {one.name}: {{experiment: {one.name}}}" for one in found)]) + "\n"


def _write(files: dict[Path, str]) -> None:
    """Write files; a file that is there with the same content stays.

    Raises:
        ConfigError: a file is there with another content. Nothing was written.
    """
    for path, text in files.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigError("file", path, "is there already, with another content; move it away, or give --write DIR")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)


def _told(files: dict[Path, str], sweep: str | None, found: Sequence[Method]) -> list[str]:
    lines = [f"written: {project_relative(path)}" for path in files]
    words = f"+sweeps={sweep}" if sweep is not None else f"experiment={','.join(one.name for one in found)} seed=..."
    return [*lines, f"next: python launch.py -m {words}"]


def as_object(one: Method) -> dict[str, Any]:
    """Return a method as a JSON object; a number that is not known is null."""
    choice = one.choice
    numbers = {"mean": choice.mean, "std": choice.std}
    return {
        "name": one.name,
        "group": choice.group,
        "setting": {key: None if value != value else value for key, value in choice.setting.items()},
        "settings_tried": choice.tried,
        "column": choice.column,
        **{key: None if math.isnan(value) else value for key, value in numbers.items()},
        "seeds": choice.seeds,
        "seeds_trained": choice.trained,
        "runner_up": None if choice.second is None else {"setting": choice.second[0], "mean": choice.second[1]},
        "notes": choice.notes,
        "run_id": run_id(one.config),
        "directory": str(choice.directory),
        "defaults": one.experiment.options,
        "changes": one.experiment.changes,
    }
