"""What a run does around the training loop: rows, checkpoints, signals."""

from __future__ import annotations

import logging
import signal
import time

from fsamlab.config import TrainConfig
from fsamlab.rundir import checkpoint
from fsamlab.rundir.record import RunRecord
from fsamlab.terminal.progress import Progress
from fsamlab.tracking import Tracker
from fsamlab.train.signals import Preempted, SignalFlag
from fsamlab.train.trainer import Trainer

log = logging.getLogger(__name__)

STATUS_SECONDS = 1.0  # between two writes of status.json for rows alone: each waits for the disk


class Bookkeeper:
    """Writes rows and checkpoints of a run, and acts on signals: the observer of the trainer."""

    def __init__(
        self,
        trainer: Trainer,
        cfg: TrainConfig,
        record: RunRecord,
        tracker: Tracker,
        signals: SignalFlag,
        bar: Progress,
    ) -> None:
        self.trainer, self.cfg, self.record, self.tracker = trainer, cfg, record, tracker
        self.signals, self.bar = signals, bar
        self.directory = record.directory / "checkpoints"
        self.last_save = time.monotonic()
        self.last_status = float("-inf")

    def poll(self) -> None:
        """Act on a signal inside an evaluation or a full-gradient pass: the state is still the last step's."""
        signum = self.signals.take()
        if self.signals.leaves(signum):
            self._leave(signum)
        elif signum is not None:
            self._save_on(signum)

    def stopping(self) -> bool:
        """Return whether a signal asks for leaving."""
        return self.signals.stops

    def row(self, row: dict[str, float]) -> None:
        """Write a row to metrics.jsonl, then mirror it."""
        self.record.append(row)
        self.tracker.log(row, int(row["step"]))
        headline = self.trainer.headline
        evaluated = f"val/{headline.name}" in row or f"test/{headline.name}" in row
        if evaluated or time.monotonic() - self.last_status > STATUS_SECONDS:
            latest = {k: v for k, v in row.items() if k.endswith(f"/{headline.name}") or "loss" in k}
            progress = {"step": int(row["step"]), "last_step": self.trainer.last_step, "epoch": row["epoch"]}
            told = {"task": headline.record()} if headline.record() else {}
            self.record.set_status("running", **progress, latest=latest, **told)
            self.last_status = time.monotonic()

    def boundary(self) -> None:
        """Save when it is due or asked for; stop when a signal says so.

        The signal is taken before anything is written: one that arrives meanwhile waits for the next call.
        """
        trainer = self.trainer
        self.bar.update(trainer)
        if self.cfg.save_best and trainer.best.improved:
            weights = {"model": trainer.model.state_dict(), "step": trainer.step}
            checkpoint.save(self.directory, weights, "best.pt", keep_previous=False, guard=self.record.ownership.check)
            trainer.best.improved = False
        signum = self.signals.take()
        if self.signals.leaves(signum):
            self._leave(signum)
        every = self.cfg.checkpoint_every_steps
        due = time.monotonic() - self.last_save > 60 * self.cfg.checkpoint_every_minutes
        if signum is not None:
            self._save_on(signum)
        elif due or (every is not None and trainer.step % every == 0):
            self.save()

    def save(self) -> None:
        """Write last.pt, with the length of metrics.jsonl that belongs to it."""
        self.record.ownership.check()
        state = {**self.trainer.state_dict(), **self.record.flush()}
        checkpoint.save(self.directory, state, guard=self.record.ownership.check)
        self.last_save = time.monotonic()

    def _save_on(self, signum: int) -> None:
        self.save()
        name = signal.Signals(signum).name
        log.warning("%s received: checkpoint written at step %d, training goes on", name, self.trainer.step)

    def _leave(self, signum: int) -> None:
        self.save()
        self.record.set_status("preempted", step=self.trainer.step)
        self.signals.requeue(signum)
        raise Preempted(signum, self.trainer.step)
