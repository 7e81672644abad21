"""`fsamlab measure`: make measurements of the checkpoints of many runs, one job for each run.

The jobs go through Hydra's launchers, as the jobs of a sweep do: many at once on this machine (the default) or on a
cluster (`hydra/launcher=...`). The work of a job is in command/measurement.py. A measurement reads the directory of the
run and writes only below `measurements/` in this directory, so that running runs can be measured too.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from fsamlab.command.measurement import checkpoint_of, measure_typed, place_of, run_config, say
from fsamlab.config import DiagnosticsConfig, MeasureConfig, typed_measure
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.find import read_whole
from fsamlab.rundir.frozen_job import MEASURE, FrozenJob
from fsamlab.rundir.measurements import FOLDER, read_measurements
from fsamlab.storage.reading import damaged, read_json
from fsamlab.storage.writing import check_writable


def measure_runs(runs: list[Path], overrides: list[str]) -> dict[Path, str | None]:
    """Measure the checkpoints of `runs`.

    Args:
        runs: run directories.
        overrides: words for Hydra: the settings of the measurement and of the launcher.

    Returns:
        For each run the error message, None if the measurement is made. A run with a damaged file is not measured, and
        its message names the file. If the jobs were only submitted (`hydra.launcher.wait=false`), the result has the
        runs with damaged files alone.

    Raises:
        ConfigError: an override has a value that is not allowed, or a run does not have the checkpoint. No job was
            started.
    """
    from hydra import compose

    from fsamlab.config.compose import composing, quoted
    from fsamlab.rundir.environment import code_version
    from fsamlab.sweep.launcher import make_launcher

    damage: list[str] = []
    asked = list(dict.fromkeys(run.resolve() for run in runs))  # a run that is named twice is measured once
    whole = {run: read_whole(_check_files, run, damage) for run in asked}
    outcome: dict[Path, str | None] = dict(zip((run for run in asked if not whole[run]), damage))
    runs = [run for run in asked if whole[run]]
    root = Path(os.path.commonpath([run.parent for run in asked]))
    jobs = [[*overrides, f"root={quoted(root)}", f"run={quoted(run.relative_to(root))}"] for run in runs]
    with composing(overrides) as context:
        place = jobs[0] if jobs else [*overrides, f"root={quoted(root)}", "run=none"]
        config = compose("measure", overrides=place, return_hydra_config=True)
        wanted = typed_measure(config)
        if not runs:
            return outcome
        for run in runs:
            checkpoint_of(run, wanted.checkpoint)
        launcher = make_launcher(context, config)
        plain, code = dataclasses.asdict(wanted), code_version(PROJECT_ROOT)
        frozen = [
            FrozenJob(MEASURE, {**plain, "run": str(run.relative_to(root))}, words, run / FOLDER, code)
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


def _check_files(run: Path) -> bool:
    """Read the files of a run that a measurement needs, so that a damaged file is found before a job starts.

    Raises:
        Damaged: a file is damaged, or the folder of the measurements cannot be written.
    """
    run_config(run)
    folder, mend = run / FOLDER, "remove it and measure again"
    try:
        check_writable(folder / "status.json" if folder.exists() else folder)
    except OSError as e:
        raise damaged(Path(e.filename), f"cannot be written: {e.strerror}", mend) from e
    read_measurements(run)
    return True


def failure(run: Path, config: MeasureConfig) -> str | None:
    """Return why the measurement of a run failed; None if it ended well."""
    shape = {"status": str, "exception": str | None}
    status = read_json(place_of(run, config) / "status.json", shape, mend="remove it and measure again") or {}
    if status.get("status") == "finished":
        return None
    return str(status.get("exception") or f"{status.get('status')}: see {run / FOLDER / 'run.log'}")


def measure_frozen(job: FrozenJob) -> None:
    """Measure one run, with the settings of the submission. This is the function of each job that measures."""
    diagnostics = DiagnosticsConfig(**job.config["diagnostics"])
    config = MeasureConfig(**{**job.config, "diagnostics": diagnostics})
    status = read_json(place_of(Path(config.root) / config.run, config) / "status.json") or {}
    restarted = slurm_job_id() is not None and status.get("slurm_job_id") == slurm_job_id()
    if restarted and status.get("status") == "finished":
        config = dataclasses.replace(config, force=False)  # SLURM has started the job again after its end
    measure_typed(config, restarted=restarted)
