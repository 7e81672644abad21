"""`fsamlab evaluate`: the checkpoints of many runs on another data set, one job for each run.

The jobs are started as those of `fsamlab measure`, and the rows lie in `evaluations/` in the directory of a run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fsamlab.command.evaluation import evaluated
from fsamlab.command.measure import Work, measure_runs, of_restart
from fsamlab.command.measurement import measure_typed, place_of, run_config
from fsamlab.config import (
    ConfigError,
    CorruptedConfig,
    DataConfig,
    EvaluateConfig,
    section_from_plain,
    typed_evaluate,
)
from fsamlab.config.checkpoints import OF_THE_RUN, READ
from fsamlab.config.corrupted import CIFAR_CLASSES, CIFAR_FOLDERS
from fsamlab.config.project import in_project
from fsamlab.rundir.frozen_job import EVALUATE, FrozenJob
from fsamlab.rundir.inputs import IMAGE_FOLDERS
from fsamlab.rundir.measurements import EVALUATIONS, ROWS
from fsamlab.storage.digests import LISTED, hidden
from fsamlab.storage.reading import read_json, read_json_lines

NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "fashion_mnist": 10, "digits": 10, **CIFAR_CLASSES}


def evaluate_runs(runs: list[Path], overrides: list[str]) -> tuple[dict[Path, str | None], dict[Path, dict[str, Any]]]:
    """Evaluate the checkpoints of `runs` on the data set that the overrides name.

    Returns:
        The result of :func:`measure_runs`, and the rows of the runs whose evaluation is there.

    Raises:
        ConfigError: no data set, a setting without effect, files that are missing, or another number of classes than a
            run was trained for. No job was started.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in overrides]
    if "data" not in keys:
        raise ConfigError(
            "data", None, "must be given: data=cifar10c, cifar100c, imagenet_c, cifar10, image_folder, ..."
        )
    for key, word in zip(keys, overrides):
        group, _, name = key.partition(".")
        if group == "data" and name and name not in READ:
            whose = "is taken from each run" if name.split(".")[0] in OF_THE_RUN else "has no effect in an evaluation"
            raise ConfigError(key, word.partition("=")[2], f"{whose}; leave it out")
    asked: list[EvaluateConfig] = []

    def check_and_keep(those: list[Path], config: EvaluateConfig) -> None:
        check(those, config)
        asked.append(config)

    outcome = measure_runs(runs, overrides, dataclasses.replace(EVALUATION, check=check_and_keep))
    return outcome, {run: _row(run, asked[0]) for run, wrong in outcome.items() if wrong is None}


def _row(run: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Return the row of a finished evaluation, which an earlier command may have made."""
    status = read_json(place_of(run, config) / "status.json", {"file": str}, required=("file",)) or {}
    return read_json_lines(run / EVALUATIONS / status["file"], ROWS[EVALUATIONS])[-1]


def check(runs: list[Path], config: EvaluateConfig) -> None:
    """Refuse missing files, and runs that were trained for another number of classes.

    The job itself checks everything that only an opened data set shows.
    """
    data: DataConfig = config.data
    root = in_project(data.root)
    folder = root / "val"
    if isinstance(data, CorruptedConfig) and data.name not in CIFAR_FOLDERS:
        folder = next(iter(data.found(root).values())) / "1"
    elif data.import_path is None and data.name in IMAGE_FOLDERS and not folder.is_dir():
        raise ConfigError("data.root", data.root, f"{folder} is not there; it must hold one folder per class")
    there = _num_classes(data, folder)
    for run in runs:
        trained = run_config(run)
        name = trained.data.name
        if trained.data.is_table or trained.task.name == "regression":
            raise ConfigError("data", data.name, f"has classes; {run.name} was trained on {name}, a regression")
        here = _num_classes(trained.data, in_project(trained.data.root) / "val")
        if None not in (here, there) and here != there:
            raise ConfigError("data", data.name, f"has {there} classes; {run.name} was trained on {name} with {here}")


def _num_classes(data: DataConfig, folder: Path) -> int | None:
    """Return the number of classes, from the name of a set or from the class folders; None where both are unknown.

    Args:
        data: the section of the set.
        folder: which would hold the class folders.
    """
    if data.import_path is not None:
        return None
    if data.name in NUM_CLASSES:
        return NUM_CLASSES[data.name]
    if data.name in LISTED:
        return LISTED[data.name].num_classes
    if hasattr(data, "num_classes"):
        return int(data.num_classes)
    return sum(p.is_dir() and not hidden(p.name) for p in folder.iterdir()) if folder.is_dir() else None


def evaluate_frozen(job: FrozenJob) -> None:
    """Evaluate one run, with the settings of the submission. This is the function of each job that evaluates."""
    data = section_from_plain("data", job.config["data"])
    config, restarted = of_restart(EvaluateConfig(**{**job.config, "data": data}))
    measure_typed(config, restarted=restarted, compute=evaluated)


def typed(composed: Any) -> EvaluateConfig:
    """Return the configuration with the names of the corruptions that are there, which the row depends on.

    Raises:
        ConfigError: a value that is not allowed, or files are missing.
    """
    config = typed_evaluate(composed)
    if isinstance(config.data, CorruptedConfig):
        there = list(config.data.found(in_project(config.data.root)))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, corruptions=there))
    return config


EVALUATION = Work("evaluate", EVALUATE, EVALUATIONS, typed, check)
