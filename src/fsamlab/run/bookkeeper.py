"""The work of a run around the training loop: write rows and checkpoints, act on signals."""

from __future__ import annotations

import logging
import signal
import time

from fsamlab.config import TrainConfig
from fsamlab.run.follow import agree
from fsamlab.rundir import checkpoint
from fsamlab.rundir.record import RunRecord
from fsamlab.terminal.progress import Progress
from fsamlab.tracking import Tracker
from fsamlab.train.signals import Preempted, SignalFlag
from fsamlab.train.trainer import Trainer

log = logging.getLogger(__name__)

# At least, between two writes of status.json for evaluated rows, and for other rows: each write waits for the disk.
STATUS_SECONDS = 1.0


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
        self.last_status = {True: float("-inf"), False: float("-inf")}  # by whether a row is evaluated

    def poll(self) -> None:
        """Act on a signal inside an evaluation or a pass over the full training set.

        There the state of the trainer is the state after the last step, so a checkpoint can be written.
        """
        signum, _ = agree(self.trainer.ranks, self.signals, False)
        if self.signals.leaves(signum):
            self._leave(signum)
        elif signum is not None:
            self._save_on(signum)

    def stopping(self) -> bool:
        """Return whether a signal asks the run to leave."""
        return self.signals.stops

    def row(self, row: dict[str, float]) -> None:
        """Write a row to metrics.jsonl, then pass it to the tracker; update status.json."""
        self.record.append(row)
        self.tracker.log(row, int(row["step"]))
        headline = self.trainer.headline
        evaluated = f"val/{headline.name}" in row or f"test/{headline.name}" in row
        due = time.monotonic() - self.last_status[evaluated] > STATUS_SECONDS
        if due or int(row["step"]) == self.trainer.last_step:
            latest = {k: v for k, v in row.items() if k.endswith(f"/{headline.name}") or "loss" in k}
            progress = {"step": int(row["step"]), "last_step": self.trainer.last_step, "epoch": row["epoch"]}
            told = {"task": headline.record()} if headline.record() else {}
            self.record.set_status("running", **progress, latest=latest, **told)
            self.last_status.update({False: time.monotonic(), evaluated: time.monotonic()})

    def boundary(self) -> None:
        """Write a checkpoint if it is time or a signal asks for it; leave if a signal asks the run to leave.

        The signal is taken before the checkpoint is written. A signal that arrives meanwhile waits for the next call.
        """
        trainer = self.trainer
        self.bar.update(trainer)
        if self.cfg.save_best and trainer.best.improved:
            weights = {"model": trainer.model.state_dict(), "step": trainer.step}
            checkpoint.save(self.directory, weights, "best.pt", keep_previous=False, guard=self.record.ownership.check)
            trainer.best.improved = False
        every = self.cfg.checkpoint_every_steps
        due = time.monotonic() - self.last_save > 60 * self.cfg.checkpoint_every_minutes
        due = due or (every is not None and trainer.step % every == 0)
        signum, due = agree(trainer.ranks, self.signals, due)
        if self.signals.leaves(signum):
            self._leave(signum)
        if signum is not None:
            self._save_on(signum)
        elif due:
            self.save()

    def save(self) -> None:
        """Write last.pt. It holds the present length of metrics.jsonl, to which a resumed run cuts the file."""
        self.record.ownership.check()
        state = {**self.trainer.state_dict(), **self.record.flush()}
        checkpoint.save(self.directory, state, guard=self.record.ownership.check)
        self.last_save = time.monotonic()

    def save_averaged(self) -> None:
        """Write ema.pt, the averaged weights, if the run has such weights."""
        averaged, step = self.trainer.averaged, self.trainer.step
        if averaged is not None:
            weights = {"model": averaged.state_dict(), "step": step}
            checkpoint.save(self.directory, weights, "ema.pt", keep_previous=False, guard=self.record.ownership.check)

    def _save_on(self, signum: int) -> None:
        self.save()
        name = signal.Signals(signum).name
        log.warning("%s received: checkpoint written at step %d, training continues", name, self.trainer.step)

    def _leave(self, signum: int) -> None:
        self.save()
        self.record.set_status("preempted", step=self.trainer.step)
        self.signals.requeue(signum)
        raise Preempted(signum, self.trainer.step)
