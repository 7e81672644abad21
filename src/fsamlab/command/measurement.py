"""The measurement of one run: wait until no other process makes it, measure the checkpoint, write the row."""

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

from fsamlab.config import Config, ConfigError, DiagnosticsConfig, MeasureConfig, from_plain, recorded
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir import inputs
from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.measurements import FOLDER, ROW
from fsamlab.rundir.ownership import DirectoryBusy, Ownership
from fsamlab.rundir.reading import read_config, read_status
from fsamlab.rundir.record import now
from fsamlab.storage.reading import damaged, read_json_lines
from fsamlab.storage.writing import write_atomic, write_json

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

# The text is part of the row, and earlier rows have the same text.
NO_EMA = "the checkpoint holds no EMA (train.keep_state=true keeps it after the end): its quantities are left out"
OF_EMA = {"decomposition", "friendliness", "direction_curvature"}  # quantities that read the EMA
POLL_SECONDS = 1.0  # between two looks whether another process has made the same measurement
INSTEAD = "or train the run again with force=true"  # the other way out if data or start weights have changed
NO_VALUE = ("name", "every_steps", "every_epochs")  # fields that decide when to measure, and change no value


def measure_typed(config: MeasureConfig, *, restarted: bool = False) -> None:
    """Measure one run, and write the status of the measurement beside the rows.

    Args:
        config: the run, its checkpoint, and what to measure.
        restarted: whether SLURM has started the same job again. Then the quantities that the first start has finished
            are kept, even with `force`.
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


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of a measurement; wait as long as another process makes the same measurement."""
    place.mkdir(exist_ok=True)
    said = False
    while True:
        try:
            owner = Ownership(place)
            break
        except DirectoryBusy as e:
            if not said:
                log.info("waiting: another process makes the same measurement (%s)", e)
            said = True
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        owner.release()


def measure_run(run: Path, config: MeasureConfig) -> Path:
    """Measure the checkpoint of a run and write the row. Return the file of the row.

    The row holds a digest of the measured weights. An existing row of the same weights and settings is not made again.

    Raises:
        ConfigError: data or start weights have changed since the training, or the run has started over meanwhile.
        Damaged: the checkpoint is damaged.
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

    # The run may start over at any time (force=true). Then the row would stand beside checkpoints of other weights.
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

    same_life()  # before the next line makes the folder again, which the new start may have deleted
    write_atomic(path, json.dumps(row) + "\n", same_life)
    finished.forget()
    return path


def _life(run: Path) -> str | None:
    """Return a mark that changes each time that a run starts over; None for a run that never started over.

    Raises:
        ConfigError: the run is starting over, and its old checkpoints are not deleted yet.
    """
    status = read_status(run)
    if status.get("starting_over"):
        raise ConfigError("run", run.name, "is starting over (force=true); measure it when it has a new checkpoint")
    life: str | None = status.get("life")
    return life


def _is_of(path: Path, weights: str) -> bool:
    """Return whether a row was measured with these weights; True for a row of an earlier version, without a digest."""
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


def run_config(run: Path) -> Config:
    """Return a run's configuration from its config.yaml.

    Raises:
        Damaged: the file is damaged, or this version of fsamlab does not know one of its settings.
    """
    plain = read_config(run)
    try:
        return from_plain(plain)
    except ConfigError as e:
        raise damaged(run / "config.yaml", f"is not the configuration of a run: {e}", "restore it") from e


def check_inputs(run: Path, seen: inputs.Seen) -> None:
    """Refuse to measure a run whose data have changed since the training.

    Raises:
        ConfigError: the digest of the data, or of the start weights, has changed.
    """
    if not inputs.check(run, run_config(run), seen, INSTEAD):
        log.info("%s: the record has no digests of data and start weights; they are not compared", run)


def checkpoint_of(run: Path, name: str) -> Path:
    """Return the file of a run's checkpoint.

    Raises:
        ConfigError: the checkpoint does not exist.
    """
    path = run / "checkpoints" / f"{name}.pt"
    if not path.exists():
        advice = "a run with train.save_best=true keeps it" if name == "best" else "the run has not written it yet"
        raise ConfigError("checkpoint", name, f"{path} does not exist; {advice}")
    return path


def place_of(run: Path, config: MeasureConfig) -> Path:
    """Return the directory of one measurement: lock, status, and the quantities that are finished."""
    return run / FOLDER / f".{config.checkpoint}-{digest(config.diagnostics)}"


def say(run: Path, config: MeasureConfig, status: str, **fields: Any) -> None:
    """Write the status of a measurement into its own directory, and into the folder of all measurements of the run.

    Two measurements of a run with different settings may be made at the same time. Each has its own status; the folder
    has the status that was written last.
    """
    place = place_of(run, config)
    place.mkdir(parents=True, exist_ok=True)
    for directory in (place, run / FOLDER):
        write_json(directory / "status.json", {"status": status, "slurm_job_id": slurm_job_id(), **fields})


def partial_file(run: Path, config: MeasureConfig) -> Path:
    """Return the file of the finished quantities of an unfinished measurement."""
    return place_of(run, config) / "finished_quantities.json"


def digest(diagnostics: DiagnosticsConfig) -> str:
    """Return 8 hex digits over all settings that the values of a measurement depend on."""
    fields = {k: v for k, v in dataclasses.asdict(diagnostics).items() if k not in NO_VALUE}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
