"""What a job does with the checkpoint of one run: wait until no other process does the same, compute, write the row.

`fsamlab measure` computes the quantities of its diagnostics (:func:`quantities`), `fsamlab evaluate` the accuracy on
another data set (command/evaluation.py). Everything around the computation is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsamlab.config import CheckpointConfig, Config, ConfigError, from_plain, recorded
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir import inputs
from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.measurements import ROW
from fsamlab.rundir.ownership import DirectoryBusy, Ownership
from fsamlab.rundir.reading import read_config, read_status
from fsamlab.rundir.record import now
from fsamlab.storage.reading import damaged, read_json_lines
from fsamlab.storage.writing import write_atomic, write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fsamlab.rundir.partial_measurement import PartialMeasurement

log = logging.getLogger(__name__)

# The text is part of the row, and earlier rows have the same text.
NO_EMA = "the checkpoint holds no EMA (train.keep_state=true keeps it after the end): its quantities are left out"
OF_EMA = {"decomposition", "friendliness", "direction_curvature"}  # quantities that read the EMA
POLL_SECONDS = 1.0  # between two looks whether another process has made the same measurement
INSTEAD = "or train the run again with force=true"  # the other way out if data or start weights have changed


@dataclass
class Opened:
    """A checkpoint, loaded.

    Attributes:
        run: the run directory.
        config: what to do with the checkpoint.
        trained: the configuration of the run.
        trainer: with model and data of the run, and the state of the checkpoint.
        has_optimizer: whether the checkpoint holds the state of the optimizer.
        device: of model and data.
        of: what all values depend on, in types that JSON has.
        same_life: raises if the run has started over since the checkpoint was read.
    """

    run: Path
    config: Any
    trained: Config
    trainer: Any
    has_optimizer: bool
    device: torch.device
    of: dict[str, Any]
    same_life: Callable[[], None]

    def memo(self, further: dict[str, Any]) -> PartialMeasurement:
        """Return the store of finished values; `further` says what they depend on besides `of`."""
        from fsamlab.rundir.partial_measurement import PartialMeasurement

        return PartialMeasurement(partial_file(self.run, self.config), {**self.of, **further}, self.same_life)


Compute = Callable[[Opened], dict[str, Any]]  # the entries of a row besides step, weights and time


def measure_typed(config: CheckpointConfig, *, restarted: bool = False, compute: Compute | None = None) -> None:
    """Do the work of one job, and write its status beside the rows.

    Args:
        config: the run, its checkpoint, and what to do.
        restarted: whether SLURM has started the same job again. Then the values that the first start has finished are
            kept, even with `force`.
        compute: as in :func:`measure_run`.
    """
    run = Path(config.root) / config.run
    say(run, config, "running", pid=os.getpid())
    try:
        with _alone(place_of(run, config)):
            if config.force and not restarted:
                partial_file(run, config).unlink(missing_ok=True)
            path = measure_run(run, config, compute)
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


def measure_run(run: Path, config: CheckpointConfig, compute: Compute | None = None) -> Path:
    """Compute the values of a run's checkpoint and write the row. Return the file of the row.

    The row holds a digest of the weights. An existing row of the same weights and settings is not made again.

    Args:
        run: the run directory.
        config: the checkpoint, and what to do.
        compute: computes the values; :func:`quantities` by default.

    Raises:
        ConfigError: data or start weights have changed since the training, or the run has started over meanwhile.
        Damaged: the checkpoint is damaged.
    """
    import torch

    from fsamlab.models import pretrained_file
    from fsamlab.run import build, choose_device
    from fsamlab.rundir import checkpoint
    from fsamlab.rundir.environment import code_version

    trained, life = run_config(run), _life(run)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    check_inputs(run, inputs.look(trained))
    state = checkpoint.load(checkpoint_of(run, config.checkpoint))
    weights = weights_digest(state["model"])
    path = run / config.FOLDER / f"{config.checkpoint}-step{state['step']}-{label(config)}.jsonl"
    if path.exists() and not config.force and _is_of(path, weights):
        log.info("there already: %s (force=true makes it again)", path)
        return path
    with recorded():
        built = dataclasses.replace(trained, **config.sections())
        device = choose_device(dataclasses.replace(trained.train, device=config.device))
    trainer, facts = build(built, device, start_weights=False)
    seen = inputs.look(trained, facts, pretrained=pretrained_file(trained.model))
    inputs.check(run, trained, seen, INSTEAD)
    has_optimizer = "optimizer" in state
    if has_optimizer:
        trainer.load_state_dict(state)
    else:
        trainer.model.load_state_dict(state["model"])
        trainer.step = state["step"]

    # The run may start over at any time (force=true). Then the row would stand beside checkpoints of other weights.
    def same_life() -> None:
        if _life(run) != life:
            raise ConfigError("run", run.name, "was started over during the measurement; measure it again")

    code = code_version(PROJECT_ROOT)
    of = {"weights": weights, "life": life, "inputs": seen, "code": code["source"]}
    of |= {"device": str(device), "num_threads": torch.get_num_threads(), "has_optimizer": has_optimizer}
    opened = Opened(run, config, trained, trainer, has_optimizer, device, of, same_life)
    row: dict[str, Any] = {
        "step": trainer.step,
        "epoch": trainer.step / trainer.steps_per_epoch,
        "checkpoint": config.checkpoint,
        "weights": weights,
        "measured": datetime.now(timezone.utc).isoformat(timespec="microseconds"),  # the newest of a step counts
        "git_sha": code["sha"],
        **(compute or quantities)(opened),
    }

    same_life()  # before the next line makes the folder again, which the new start may have deleted
    write_atomic(path, json.dumps(row) + "\n", same_life)
    partial_file(run, config).unlink(missing_ok=True)
    return path


def quantities(opened: Opened) -> dict[str, Any]:
    """Return the measured quantities, their conventions, and a note if the checkpoint cannot give some of them."""
    trainer, config = opened.trainer, opened.config
    note: dict[str, str] = {}
    reference = trainer.optimizer.choices.reference
    without_ema = not opened.has_optimizer and reference is not None and reference.is_average
    if without_ema and OF_EMA & set(config.diagnostics.quantities):
        log.warning("%s: %s", opened.run, NO_EMA)
        note = {"note": NO_EMA}
    conventions = trainer.conventions()
    return {
        **note,
        **trainer.diagnostics.measure(trainer.snapshot(), memo=opened.memo({"conventions": conventions})),
        **{f"diagnostics/{k}": v for k, v in conventions.items()},
    }


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
        kept = {"best": "a run with train.save_best=true keeps it", "ema": "a run with train.ema_decay ends with it"}
        advice = kept.get(name, "the run has not written it yet")
        raise ConfigError("checkpoint", name, f"{path} does not exist; {advice}")
    return path


def place_of(run: Path, config: CheckpointConfig) -> Path:
    """Return the directory of one job's work: lock, status, and the values that are finished."""
    return run / config.FOLDER / f".{config.checkpoint}-{label(config)}"


def say(run: Path, config: CheckpointConfig, status: str, **fields: Any) -> None:
    """Write the status of a job's work into its own directory, and into the folder of all rows of the kind.

    Two measurements of a run with different settings may be made at the same time. Each has its own status; the folder
    has the status that was written last.
    """
    place = place_of(run, config)
    place.mkdir(parents=True, exist_ok=True)
    for directory in (place, run / config.FOLDER):
        write_json(directory / "status.json", {"status": status, "slurm_job_id": slurm_job_id(), **fields})


def partial_file(run: Path, config: CheckpointConfig) -> Path:
    """Return the file of the finished values of unfinished work."""
    return place_of(run, config) / "finished_quantities.json"


def label(config: CheckpointConfig) -> str:
    """Return what tells rows of a checkpoint apart: the subject, and 8 hex digits over the settings."""
    digest = hashlib.sha256(json.dumps(config.settings(), sort_keys=True).encode()).hexdigest()[:8]
    return f"{config.subject}-{digest}" if config.subject else digest
