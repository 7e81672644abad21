"""`fsamlab measure`: make measurements of the checkpoints of many runs, one job for each run.

`fsamlab evaluate` (command/evaluate.py) does other work with checkpoints, through the same functions. The jobs go
through Hydra's launchers, as the jobs of a sweep do: many at once on this machine (the default) or on a cluster
(`hydra/launcher=...`). The work of a job is in command/measurement.py. A job reads the directory of the run and writes
only below one folder in this directory, `measurements/`, so that running runs can be measured too.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsamlab.command.measurement import checkpoint_of, measure_typed, place_of, run_config, say
from fsamlab.config import CheckpointConfig, DiagnosticsConfig, MeasureConfig, typed_measure
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.find import read_whole
from fsamlab.rundir.frozen_job import MEASURE, FrozenJob
from fsamlab.rundir.measurements import MEASUREMENTS, read_all
from fsamlab.rundir.reading import read_summary
from fsamlab.storage.reading import damaged, read_json
from fsamlab.storage.writing import check_writable

Config = TypeVar("Config", bound=CheckpointConfig)


@dataclass(frozen=True)
class Work:
    """What jobs do with the checkpoints of runs.

    Attributes:
        name: of the configuration in conf/.
        task: the function of each job, as :class:`FrozenJob` names it.
        folder: where the rows lie, in the directory of a run.
        typed: makes a plain object of the composed configuration.
        check: refuses what cannot be done with these runs, before a job starts.
    """

    name: str
    task: str
    folder: str
    typed: Callable[[Any], CheckpointConfig]
    check: Callable[[list[Path], Any], None]


def measure_runs(runs: list[Path], overrides: list[str], work: Work | None = None) -> dict[Path, str | None]:
    """Measure the checkpoints of `runs`, or do other work with them.

    Args:
        runs: run directories.
        overrides: words for Hydra: the settings of the measurement and of the launcher.
        work: what to do with the checkpoints; None means :data:`MEASUREMENT`.

    Returns:
        For each run the error message, None if the measurement is made. A run with a damaged file is not measured, and
        its message names the file. If the jobs were only submitted (`hydra.launcher.wait=false`), the result has the
        runs with damaged files alone.

    Raises:
        ConfigError: an override has a value that is not allowed, a run does not have the checkpoint, or the training
            set of a run is too small for the measurement. No job was started.
    """
    work = work or MEASUREMENT
    from hydra import compose

    from fsamlab.config.compose import composing, quoted
    from fsamlab.rundir.environment import code_version
    from fsamlab.sweep.launcher import make_launcher

    damage: list[str] = []
    asked = list(dict.fromkeys(run.resolve() for run in runs))  # a run that is named twice is measured once
    whole = {run: read_whole(lambda run: _check_files(run, work.folder), run, damage) for run in asked}
    outcome: dict[Path, str | None] = dict(zip((run for run in asked if not whole[run]), damage))
    runs = [run for run in asked if whole[run]]
    root = Path(os.path.commonpath([run.parent for run in asked]))
    jobs = [[*overrides, f"root={quoted(root)}", f"run={quoted(run.relative_to(root))}"] for run in runs]
    with composing(overrides) as context:
        place = jobs[0] if jobs else [*overrides, f"root={quoted(root)}", "run=none"]
        config = compose(work.name, overrides=place, return_hydra_config=True)
        wanted = work.typed(config)
        if not runs:
            return outcome
        for run in runs:
            checkpoint_of(run, wanted.checkpoint)
        work.check(runs, wanted)
        launcher = make_launcher(context, config)
        plain, code = dataclasses.asdict(wanted), code_version(PROJECT_ROOT)
        frozen = [
            FrozenJob(work.task, {**plain, "run": str(run.relative_to(root))}, words, run / work.folder, code)
            for run, words in zip(runs, jobs)
        ]
        for run in runs:  # else a job that never starts would seem to have ended as the job before
            say(run, wanted, "queued")
        launcher.run(frozen, lambda ids: None)
        if launcher.detached:
            return outcome
    for run in runs:
        words: list[str] = []
        failed = read_whole(lambda run: failure(run, wanted), run, words)
        outcome[run] = words[0] if words else failed
    return outcome


def _check_files(run: Path, folder_name: str) -> bool:
    """Read the files of a run that a measurement needs, so that a damaged file is found before a job starts.

    Raises:
        Damaged: a file is damaged, or the folder of the measurements cannot be written.
    """
    run_config(run)
    folder, mend = run / folder_name, "remove it and measure again"
    try:
        check_writable(folder / "status.json" if folder.exists() else folder)
    except OSError as e:
        raise damaged(Path(e.filename), f"cannot be written: {e.strerror}", mend) from e
    read_all(run, folder_name)
    read_summary(run)
    return True


def failure(run: Path, config: CheckpointConfig) -> str | None:
    """Return why the measurement of a run failed; None if it ended well."""
    shape = {"status": str, "exception": str | None}
    status = read_json(place_of(run, config) / "status.json", shape, mend="remove it and measure again") or {}
    if status.get("status") == "finished":
        return None
    return str(status.get("exception") or f"{status.get('status')}: see {run / config.FOLDER / 'run.log'}")


def measure_frozen(job: FrozenJob) -> None:
    """Measure one run, with the settings of the submission. This is the function of each job that measures."""
    diagnostics = DiagnosticsConfig(**job.config["diagnostics"])
    config = MeasureConfig(**{**job.config, "diagnostics": diagnostics})
    config, restarted = of_restart(config)
    measure_typed(config, restarted=restarted)


def of_restart(config: Config) -> tuple[Config, bool]:
    """Return the configuration of a job, and whether SLURM has started the same job again.

    `force` is left out if the first start had ended its work.
    """
    status = read_json(place_of(Path(config.root) / config.run, config) / "status.json") or {}
    restarted = slurm_job_id() is not None and status.get("slurm_job_id") == slurm_job_id()
    if restarted and status.get("status") == "finished":
        config = dataclasses.replace(config, force=False)
    return config, restarted


def check_num_train(runs: list[Path], config: MeasureConfig) -> None:
    """Refuse runs whose training set is too small, as far as they have finished; the job of a run checks again."""
    for run in runs:
        num_train = read_summary(run).get("data/num_train")
        if isinstance(num_train, int):
            config.diagnostics.check_num_train(num_train, run_config(run).data.batch_size)


MEASUREMENT = Work("measure", MEASURE, MEASUREMENTS, typed_measure, check_num_train)
