"""`fsamlab measure`: diagnostics of checkpoints, of finished runs and of running ones.

A measurement reads the run's directory and writes `measurements/` below it, never anything else there.
One job measures one run; the jobs go through Hydra's launchers, so that many run at once on this machine
(the default) or on a cluster (`hydra/launcher=...`), like those of a sweep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsamlab.config import (
    Config,
    ConfigError,
    DiagnosticsConfig,
    MeasureConfig,
    from_plain,
    recorded,
    typed_measure,
)
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir import inputs
from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.find import read_whole
from fsamlab.rundir.frozen_job import MEASURE, FrozenJob
from fsamlab.rundir.measurements import FOLDER, ROW, read_measurements
from fsamlab.rundir.ownership import DirectoryBusy, Ownership
from fsamlab.rundir.reading import read_config, read_status
from fsamlab.rundir.record import now
from fsamlab.storage.reading import damaged, read_json, read_json_lines
from fsamlab.storage.writing import check_writable, write_atomic, write_json

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NO_EMA = "the checkpoint holds no EMA (train.keep_state=true keeps it after the end): its quantities are left out"
OF_EMA = {"decomposition", "friendliness", "direction_curvature"}
POLL_SECONDS = 1.0  # while another process makes the same measurement
INSTEAD = "or train the run again with force=true"  # of restoring other data or start weights
NO_VALUE = ("name", "every_steps", "every_epochs")  # fields that decide when to measure, and change no value


def measure_runs(runs: list[Path], overrides: list[str]) -> dict[Path, str | None]:
    """Measure the checkpoints of `runs`, and return for each run the error message, or None.

    Only those left out where the jobs were only submitted (`hydra.launcher.wait=false`).

    A run with a damaged file is left out, and its outcome names the file.

    Raises:
        ConfigError: an override that cannot be used, or a run that has nothing to measure. Nothing was started.
    """
    from hydra import compose

    from fsamlab.config.compose import composing, quoted
    from fsamlab.rundir.environment import code_version
    from fsamlab.sweep.launcher import make_launcher

    damage: list[str] = []
    asked = list(dict.fromkeys(run.resolve() for run in runs))  # one that is named twice is measured once
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
        for run in runs:  # a job that never starts must not leave the status of an earlier one
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
    """Read the files of a run that a measurement needs, and the files beside its rows.

    Raises:
        Damaged: a file or the folder cannot be used.
    """
    run_config(run)
    folder, mend = run / FOLDER, "remove it and measure again"
    try:
        check_writable(folder / "status.json" if folder.exists() else folder)
    except OSError as e:
        raise damaged(Path(e.filename), f"cannot be written: {e.strerror}", mend) from e
    read_measurements(run)
    return True


def run_config(run: Path) -> Config:
    """Return a run's configuration from its config.yaml.

    Raises:
        Damaged: it cannot be read, or is none of this version of fsamlab.
    """
    plain = read_config(run)
    try:
        return from_plain(plain)
    except ConfigError as e:
        raise damaged(run / "config.yaml", f"is no run's configuration: {e}", "restore it") from e


def check_inputs(run: Path, seen: inputs.Seen) -> None:
    """Refuse to measure a run on other data than it was trained on.

    Raises:
        ConfigError: its data or start weights are others now.
    """
    if not inputs.check(run, run_config(run), seen, INSTEAD):
        log.info("%s: what its data and start weights were is not on record; they are not compared", run)


def checkpoint_of(run: Path, name: str) -> Path:
    """Return the file of a run's checkpoint.

    Raises:
        ConfigError: there is none.
    """
    path = run / "checkpoints" / f"{name}.pt"
    if not path.exists():
        advice = "train.save_best=true keeps one" if name == "best" else "the run has not got that far"
        raise ConfigError("checkpoint", name, f"{path} does not exist; {advice}")
    return path


def place_of(run: Path, config: MeasureConfig) -> Path:
    """Return the directory of one measurement: who makes it, how it ended, and what is finished of it."""
    return run / FOLDER / f".{config.checkpoint}-{digest(config.diagnostics)}"


def say(run: Path, config: MeasureConfig, status: str, **fields: Any) -> None:
    """Write the status of a measurement: in its own directory, and as the latest word on the run's measurements.

    Two measurements of a run with different settings may be made at the same time: each is judged by its own status.
    """
    place = place_of(run, config)
    place.mkdir(parents=True, exist_ok=True)
    for directory in (place, run / FOLDER):
        write_json(directory / "status.json", {"status": status, "slurm_job_id": slurm_job_id(), **fields})


def failure(run: Path, config: MeasureConfig) -> str | None:
    """Return why a measurement failed; None where it ended well."""
    shape = {"status": str, "exception": str | None}
    status = read_json(place_of(run, config) / "status.json", shape, mend="remove it and measure again") or {}
    if status.get("status") == "finished":
        return None
    return str(status.get("exception") or f"{status.get('status')}: see {run / FOLDER / 'run.log'}")


def measure_frozen(job: FrozenJob) -> None:
    """Measure one run with the settings of the submission: the task of every job that measures."""
    diagnostics = DiagnosticsConfig(**job.config["diagnostics"])
    config = MeasureConfig(**{**job.config, "diagnostics": diagnostics})
    status = read_json(place_of(Path(config.root) / config.run, config) / "status.json") or {}
    restarted = slurm_job_id() is not None and status.get("slurm_job_id") == slurm_job_id()
    if restarted and status.get("status") == "finished":
        config = dataclasses.replace(config, force=False)  # the job has measured already
    measure_typed(config, restarted=restarted)


def measure_typed(config: MeasureConfig, *, restarted: bool = False) -> None:
    """Measure one run, with a status file beside the rows.

    Args:
        restarted: SLURM has started the same job again: `force` does not mean what its first start has finished.
    """
    run = Path(config.root) / config.run
    say(run, config, "running", pid=os.getpid())
    try:
        with _alone(place_of(run, config)):
            if config.force and not restarted:
                partial_file(run, config).unlink(missing_ok=True)
            path = measure_run(run, config)
    except Exception as e:
        say(run, config, "failed", exception=f"{type(e).__name__}: {e}".splitlines()[0])
        raise
    say(run, config, "finished", file=path.name, updated=now())


def partial_file(run: Path, config: MeasureConfig) -> Path:
    """Return the file of the quantities that are finished, while the measurement is not."""
    return place_of(run, config) / "finished_quantities.json"


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the right to make one measurement of a run; wait for another process that is about to make the same one."""
    place.mkdir(exist_ok=True)
    said = False
    while True:
        try:
            owner = Ownership(place)
            break
        except DirectoryBusy as e:
            if not said:
                log.info("waiting: the same measurement is being made (%s)", e)
            said = True
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        owner.release()


def measure_run(run: Path, config: MeasureConfig) -> Path:
    """Measure the checkpoint of a run and write the row; return the file, also where it was there already.

    A measurement belongs to the weights that it was made of: their digest is in the row.

    Raises:
        ConfigError: the run is starting over, or did so during the measurement.
        Damaged: the checkpoint cannot be used.
    """
    import torch

    from fsamlab.models import pretrained_file
    from fsamlab.run import build, choose_device
    from fsamlab.rundir import checkpoint
    from fsamlab.rundir.environment import code_version
    from fsamlab.rundir.partial_measurement import PartialMeasurement

    trained, life = run_config(run), _life(run)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    check_inputs(run, inputs.look(trained))
    state = checkpoint.load(checkpoint_of(run, config.checkpoint))
    weights = weights_digest(state["model"])
    path = run / FOLDER / f"{config.checkpoint}-step{state['step']}-{digest(config.diagnostics)}.jsonl"
    if path.exists() and not config.force and _is_of(path, weights):
        log.info("measured already: %s (force=true measures again)", path)
        return path
    with recorded():
        measured = dataclasses.replace(trained, diagnostics=config.diagnostics)
        device = choose_device(dataclasses.replace(trained.train, device=config.device))
    trainer, facts = build(measured, device, start_weights=False)
    seen = inputs.look(trained, facts, pretrained=pretrained_file(trained.model))
    inputs.check(run, trained, seen, INSTEAD)
    note: dict[str, str] = {}
    if "optimizer" in state:
        trainer.load_state_dict(state)
    else:
        trainer.model.load_state_dict(state["model"])
        trainer.step = state["step"]
        reference = trainer.optimizer.choices.reference
        if reference is not None and reference.is_average and OF_EMA & set(config.diagnostics.quantities):
            log.warning("%s: %s", run, NO_EMA)
            note = {"note": NO_EMA}
    assert trainer.diagnostics is not None

    def same_life() -> None:
        if _life(run) != life:
            raise ConfigError("run", run.name, "was started over during the measurement; measure it again")

    conventions = trainer.conventions()
    code = code_version(PROJECT_ROOT)
    of = {"weights": weights, "life": life, "inputs": seen, "code": code["source"]}
    of |= {"device": str(device), "num_threads": torch.get_num_threads(), "has_optimizer": "optimizer" in state}
    finished = PartialMeasurement(partial_file(run, config), {**of, "conventions": conventions}, same_life)
    row: dict[str, Any] = {
        "step": trainer.step,
        "epoch": trainer.step / trainer.steps_per_epoch,
        "checkpoint": config.checkpoint,
        "weights": weights,
        "measured": datetime.now(timezone.utc).isoformat(timespec="microseconds"),  # the newest of a step counts
        "git_sha": code["sha"],
        **note,
        **trainer.diagnostics.measure(trainer.snapshot(), memo=finished),
        **{f"diagnostics/{k}": v for k, v in conventions.items()},
    }

    same_life()  # before the folder that a forced start has deleted is made again
    write_atomic(path, json.dumps(row) + "\n", same_life)
    finished.forget()
    return path


def _life(run: Path) -> str | None:
    """Return a mark that changes when a run is started over; None before the first time.

    Raises:
        ConfigError: it is just starting over, and its checkpoints are those of the earlier life.
    """
    status = read_status(run)
    if status.get("starting_over"):
        raise ConfigError("run", run.name, "is starting over (force=true); measure it when it has a new checkpoint")
    life: str | None = status.get("life")
    return life


def _is_of(path: Path, weights: str) -> bool:
    """Return whether a measurement is of these weights; one of an earlier version does not tell, and counts."""
    rows = read_json_lines(path, ROW)
    return bool(rows) and rows[-1].get("weights", weights) == weights


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return 12 hex digits over names, types, shapes and bytes of a state_dict on the CPU."""
    import torch

    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def digest(diagnostics: DiagnosticsConfig) -> str:
    """Return 8 hex digits that depend on everything that decides the values of a measurement."""
    fields = {k: v for k, v in dataclasses.asdict(diagnostics).items() if k not in NO_VALUE}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
