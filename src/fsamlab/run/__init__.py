"""One run from top to bottom: the file to read first.

The config becomes a plain dataclass. `build` (run/assembly.py) makes data, model, optimizer and trainer of the config,
and the trainer trains. All files of the run lie in its directory (rundir/record.py, rundir/checkpoint.py).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from fsamlab.config import Config, ConfigError, from_plain, recorded, to_plain, typed
from fsamlab.config.identity import differences, is_neutral, run_id
from fsamlab.config.objective import check_validation, is_search, no_objective
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.metrics.objective import objective
from fsamlab.models import pretrained_file
from fsamlab.ranks import RankLost, Ranks, place
from fsamlab.run.assembly import build, choose_device
from fsamlab.run.bookkeeper import Bookkeeper
from fsamlab.run.follow import COMMON, Leader, Start, follow, joined
from fsamlab.run.resume import resume
from fsamlab.rundir import checkpoint, inputs
from fsamlab.rundir.environment import environment, slurm_job_id
from fsamlab.rundir.frozen_job import FrozenJob
from fsamlab.rundir.ownership import STALE_SECONDS, DirectoryBusy, Superseded
from fsamlab.rundir.reading import is_finished, read_config, read_status, read_summary
from fsamlab.rundir.record import RunRecord
from fsamlab.terminal import errors
from fsamlab.terminal.progress import Progress as Progress
from fsamlab.terminal.progress import print_run, progress
from fsamlab.tracking import Tracker as Tracker
from fsamlab.tracking import build_tracker, wandb_arguments
from fsamlab.train.graphed import check_graphs
from fsamlab.train.parallel import check_ranks
from fsamlab.train.precision import check_device
from fsamlab.train.signals import Preempted, SignalFlag

__all__ = ["build", "run", "run_composed", "run_frozen"]

log = logging.getLogger(__name__)

BEFORE_THE_FIRST_STEP = frozenset(  # files of a run directory
    ("config.yaml", "overrides.yaml", "status.json", "owner.json", "env.json", "metrics.jsonl", "run.log", ".claim")
)


def run_composed(cfg: Any) -> float | None:
    """Run one job that Hydra has composed, in the output directory that Hydra has made; return its objective.

    An error of a single run ends the process here with one line. In a sweep Hydra needs the error.

    Returns:
        The number that a sweeper maximises or minimises, from validation data; None without a validation split. A run
        that has finished before is not run again, and its number is returned.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    is_new = not (directory / "status.json").exists()
    try:
        config = typed(cfg)
        searched = hydra.mode is RunMode.MULTIRUN and is_search(hydra.sweeper)
        if searched:
            check_validation(config.data)
        with joined(config.train) as ranks:
            summary = run(config, directory, list(hydra.overrides.task), ranks=ranks)
        value = objective(summary, config.objective)
        if searched and value is None:
            raise no_objective(config.objective, directory)
        return value
    except Exception as e:
        if place().rank > 0 and type(e) is not RankLost and errors.one_line(e) is not None:
            sys.exit(1)  # rank 0 ends in the same way, or quotes the reason
        if is_new and place().rank == 0 and isinstance(e, ConfigError) and hydra.mode is RunMode.RUN:
            discard_untrained(directory)
        failure: Exception = e
        if errors.one_line(e) is None:
            log.error("%s", traceback.format_exc())
            failure = errors.JobFailed(f"{type(e).__name__}: {e}")
        if hydra.mode is RunMode.RUN:
            sys.exit(errors.report(failure))  # before Hydra prints a message of its own
        raise failure from e


def discard_untrained(directory: Path) -> None:
    """Remove a run directory in which nothing was trained; a wrong command line leaves such a directory.

    Only files that a run writes before its first step are removed. A directory with other files stays.
    """
    if (directory / "metrics.jsonl").exists() and (directory / "metrics.jsonl").stat().st_size > 0:
        return
    for path in directory.iterdir():
        if path.name in BEFORE_THE_FIRST_STEP:
            path.unlink()
    for parent in (directory, directory.parent):
        try:
            parent.rmdir()
        except OSError:  # other files, or other runs of the study
            return


def run_frozen(job: FrozenJob) -> None:
    """Train the run of a frozen job. This is the function that each job of a sweep calls.

    Raises:
        ConfigError: this version of the code gives the configuration another run id than the name of the directory.
    """
    threads = os.environ.get("SLURM_CPUS_PER_TASK")
    if threads is not None:
        torch.set_num_threads(int(threads))
    config = from_plain(job.config)
    if run_id(config) != job.directory.name:
        allowed = f"this version of fsamlab gives the configuration the run id {run_id(config)}; submit the job again"
        raise ConfigError("run directory", job.directory.name, allowed)
    before = read_status(job.directory)
    if before.get("forced") and slurm_job_id() is not None and before["slurm_job_id"] == slurm_job_id():
        with recorded():
            # SLURM has restarted this job, and its first start has deleted the old results already.
            config = dataclasses.replace(config, force=False)
    deadline = time.monotonic() + (STALE_SECONDS + 30 if slurm_job_id() is not None else 0)
    with joined(config.train) as ranks:
        while True:
            try:
                run(config, job.directory, job.overrides, submitted=job.code, ranks=ranks, until=job.until)
                return
            except DirectoryBusy as e:  # SLURM's restart waits until the heartbeat of the killed process is too old
                # rank 0 alone decides when to give up; the others come again until it has
                if time.monotonic() > deadline and (ranks is None or ranks.is_main):
                    raise
                log.warning("%s", e)
                time.sleep(5)


def run(
    config: Config,
    directory: Path,
    overrides: list[str] | None = None,
    submitted: dict[str, Any] | None = None,
    ranks: Ranks | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """Train one configuration in `directory`, from the start or from its last checkpoint.

    Args:
        config: the configuration of the run.
        directory: the run directory.
        overrides: the words that the configuration was composed from, for the record.
        submitted: the version of the code when the job was submitted.
        ranks: the processes that train the run together; None means this process alone.
        until: the epoch after which the run pauses: it leaves a checkpoint, and a later call continues it. The
            training is the same with and without a pause, bit for bit.

    Returns:
        The summary, as in summary.json; empty for a run that has paused. A finished run is not run again unless `force`
        is set.

    Raises:
        ConfigError, Diverged, Preempted, DirectoryBusy, Superseded, RankLost: the message is one line for the user. It
            is also in status.json, if this process may still write there.
    """
    if ranks is not None and not ranks.is_main:
        with SignalFlag() as signals:
            follow(config, ranks, signals)
        return {}
    ranks = ranks or Ranks.alone(torch.device("cpu"))
    with Leader(ranks).speaking() as leader:
        if is_finished(directory) and not config.force:
            return _skip(config, directory)
        return _run(config, directory, overrides or [], submitted or {}, leader, until)


def _run(
    config: Config,
    directory: Path,
    overrides: list[str],
    submitted: dict[str, Any],
    leader: Leader,
    until: int | None,
) -> dict[str, Any]:
    """Train as the owner of the run directory."""
    with SignalFlag() as signals:
        record = RunRecord(directory, config, overrides)
        try:
            if record.was_finished:
                return _skip(config, directory)
            with leader.ranks.heard():
                summary, url = _train(config, record, signals, submitted, leader, until)
        except Preempted as e:
            record.end("preempted", str(e))
            leader.ranks.barrier()
            raise
        except Superseded as e:
            log.error("%s", e)
            raise  # the newer attempt owns status.json
        except SystemExit:  # a requeue: submitit's handler ends the process, and the status says preempted
            leader.ranks.barrier()
            raise
        except BaseException as e:
            record.end("failed", f"{type(e).__name__}: {e}".splitlines()[0])
            if isinstance(e, COMMON):
                leader.ranks.barrier()  # the other ranks wait: torchrun would end this process when they end
            raise
        finally:
            record.close()
        if summary:
            print_run(config, directory, summary, url)
    return summary


def _train(
    config: Config,
    record: RunRecord,
    signals: SignalFlag,
    submitted: dict[str, Any],
    leader: Leader,
    until: int | None,
) -> tuple[dict[str, Any], str | None]:
    """Train from the start or the last checkpoint to the end, or to a pause after epoch `until`.

    Returns:
        The summary, empty after a pause, and the tracker's URL.
    """
    directory = record.directory
    ranks = leader.ranks if leader.ranks.size > 1 else Ranks.alone(choose_device(config.train))
    device = ranks.device
    check_device(config.train.precision, device)
    check_graphs(config.train, device, ranks.size)
    if config.train.num_threads is not None:
        torch.set_num_threads(config.train.num_threads)
    state = checkpoint.load_latest(directory / "checkpoints")
    memory: inputs.Memory = {}
    if state is not None:  # changed data are named here, before they make another step fail with a less clear message
        seen = inputs.look(config, memory=memory)
        inputs.check(directory, config, {key: seen[key] for key in seen if key not in inputs.CODE})
    weights = inputs.start_weights(config) if state is None else None
    check_ranks(config.train, ranks, state)
    leader.say(Start(True, to_plain(config), state, until))
    trainer, facts = build(config, device, start_weights=state is None, ranks=ranks)
    seen = inputs.look(config, facts, memory, pretrained_file(config.model))
    inputs.check_start_weights(config, weights, seen)
    resume(trainer, record, state, environment(PROJECT_ROOT, device, ranks.size), submitted, seen)
    tracker = build_tracker(
        config.tracker,
        **wandb_arguments(to_plain(config), run_id(config)),
        directory=directory.parent,
        start_step=trainer.step,
        metrics=directory / "metrics.jsonl",
    )
    exit_code = 1
    summary: dict[str, Any] = {}
    try:
        with progress(trainer, run_id(config), config.train.progress) as bar:
            bookkeeper = Bookkeeper(trainer, config.train, record, tracker, signals, bar)
            trainer.fit(bookkeeper, until)
        bookkeeper.save()
        if trainer.step < trainer.last_step:
            record.set_status("paused", step=trainer.step)
            log.info("paused after epoch %d of %d", trainer.epoch, trainer.epochs)
            exit_code = 0
            return {}, tracker.url
        bookkeeper.save_averaged()
        summary = {
            **trainer.summary(),
            **{f"task/{k}": v for k, v in trainer.headline.record().items()},
            **{f"data/{k}": v for k, v in facts.items()},
            **{f"diagnostics/{k}": v for k, v in trainer.conventions().items()},
        }
        record.write_summary(summary)
        exit_code = 0
    finally:
        tracker.finish(summary or trainer.summary(), exit_code)
    # The status first. A run that is killed before the next line keeps a larger checkpoint than needed, but a run
    # without its full checkpoint and without the status "finished" could not resume.
    record.set_status("finished", step=trainer.step)
    if not config.train.keep_state:
        weights = trainer.model.state_dict()
        checkpoint.finish(directory / "checkpoints", weights, trainer.step, record.ownership.check)
    return summary, tracker.url


def _skip(config: Config, directory: Path) -> dict[str, Any]:
    """Log that the run is finished, and the settings in which the run and `config` differ; return its summary.

    The differing settings do not change the weights, else the run would have another run id.

    Raises:
        ConfigError: the data or the start weights have changed since the training.
    """
    for error in inputs.compare_finished([(directory, config)]).values():
        raise error
    summary = read_summary(directory)
    log.info("already finished: %s (force=true starts it again)", directory)
    before = read_config(directory)
    ours = differences(config)
    for key in sorted(ours):
        value: Any = before
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if is_neutral(key, config) and value != ours[key] and key not in ("force", "runs_dir", "objective"):
            log.info("  the run had %s=%s, not %s; this setting does not change the weights", key, value, ours[key])
    return summary
