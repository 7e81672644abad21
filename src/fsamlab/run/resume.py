"""How a run continues from its last checkpoint, and when it refuses to continue."""

from __future__ import annotations

import logging
import os
from typing import Any

from fsamlab.config import ConfigError
from fsamlab.rundir import inputs
from fsamlab.rundir.environment import code_change, decisive_differences, slurm_job_id
from fsamlab.rundir.reading import read_environment
from fsamlab.rundir.record import RunRecord
from fsamlab.train.trainer import Trainer

log = logging.getLogger(__name__)

MAX_STARTS_HERE = 3  # so many times a SLURM job may start from the same step


class NoProgress(RuntimeError):
    """SLURM starts the job again and again, and no start reaches a new checkpoint."""


def resume(
    trainer: Trainer,
    record: RunRecord,
    state: dict[str, Any] | None,
    env: dict[str, Any],
    submitted: dict[str, Any],
    seen: inputs.Seen,
) -> None:
    """Load the newest checkpoint into `trainer`, if there is one, and cut metrics.jsonl to its length.

    Args:
        trainer: the trainer, in its initial state.
        record: the files of the run.
        state: the content of the checkpoint; None without a checkpoint.
        env: the environment of this start.
        submitted: the version of the code when the job was submitted.
        seen: digests of the data and of the start weights, as they are now.

    Raises:
        ConfigError: data or start weights have changed since the run started; or the code has changed, and
            `on_code_change=refuse`.
        NoProgress: SLURM has started the job more than MAX_STARTS_HERE times from this step.
    """
    before = read_environment(record.directory) or {}
    _compare_code(record, env["git"], submitted, before.get("git", {}) if state is not None else {})
    known = state is not None and inputs.check(record.directory, record.config, seen)
    if not known:
        inputs.record(record.directory, seen, record.ownership.check)
        if state is not None:
            log.warning("digests of data and start weights are not on record; they are compared from the next start on")
    record.write_env(env)
    if state is None:
        record.cut(0)
    else:
        trainer.load_state_dict(state)
        record.cut(state["metrics_bytes"], state.get("metrics_crc"))
        log.info("resuming at step %d of %d", trainer.step, trainer.last_step)
        for line in decisive_differences(before, env):
            log.warning("resumed in another environment, so the weights may differ in their last bits: %s", line)
    _count_start(record, trainer.step)


def _compare_code(
    record: RunRecord, now: dict[str, Any], submitted: dict[str, Any], checkpointed: dict[str, Any]
) -> None:
    """Warn if src/ has changed since the submission or the checkpoint, or refuse to continue."""
    changes = {"it was submitted": code_change(submitted, now), "its last start": code_change(checkpointed, now)}
    found = [f"the code has changed since {when}: {change}" for when, change in changes.items() if change]
    if found and record.config.on_code_change == "refuse":
        allowed = f"{found[0]}; go back to the earlier code, or use on_code_change=warn"
        raise ConfigError("on_code_change", "refuse", allowed)
    for line in found:
        log.warning("WARNING: %s", line)
    known = record.before.get("warnings", []) if checkpointed else []
    record.set_status("running", warnings=list(dict.fromkeys([*known, *found])))


def _count_start(record: RunRecord, step: int) -> None:
    """Record that an attempt starts at `step`; refuse if SLURM has restarted the job at this step too often."""
    before_here = record.before.get("slurm_job_id"), record.before.get("resumed_at")
    same = before_here == (slurm_job_id(), step) and record.before["status"] != "failed"
    starts = 1 + (record.before.get("starts_here", 0) if same else 0)
    record.set_status("running", resumed_at=step, starts_here=starts)
    if starts > MAX_STARTS_HERE and "SLURM_RESTART_COUNT" in os.environ:
        raise NoProgress(
            f"{starts - 1} starts in a row ended without a checkpoint beyond step {step}; is the time limit or "
            "the memory too small? lower train.checkpoint_every_minutes, or raise hydra.launcher.timeout_min"
        )
