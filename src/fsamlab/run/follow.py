"""The ranks of a run beside rank 0. Rank 0 owns the run directory; these ranks train, and write no file.

Rank 0 tells them, in one message, whether the run starts at all, and from which state. After that all ranks make the
same calls in the same order: steps, evaluations, measurements, and the state of each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from fsamlab.config import Config, ConfigError, TrainConfig, to_plain
from fsamlab.ranks import RankLost, Ranks, place
from fsamlab.run.assembly import build, choose_device
from fsamlab.rundir.ownership import DirectoryBusy
from fsamlab.train.divergence import Diverged
from fsamlab.train.parallel import check_ranks
from fsamlab.train.signals import Preempted, SignalFlag
from fsamlab.train.trainer import Trainer

COMMON = (Preempted, Diverged)  # ends of a training that all ranks reach at the same step


class AtRankZero(RankLost):
    """Rank 0 could not start the run, and has said why on its own screen."""


@dataclass(frozen=True)
class Start:
    """What rank 0 tells the others before a training.

    Attributes:
        trains: False where the run is finished already, or cannot start.
        config: the configuration of rank 0, in plain form.
        state: the checkpoint to continue from; None without a checkpoint.
        until: the epoch after which the run pauses; None means the end of the training.
        error: why the run cannot start, and whether another process writes into its directory; else None.
    """

    trains: bool
    config: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    until: int | None = None
    error: tuple[str, bool] | None = None


class Leader:
    """Rank 0's side: says once whether the run starts, also where an exception ends the start."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.said = ranks, False

    def say(self, start: Start) -> None:
        """Send the message, if it was not sent yet."""
        if not self.said:
            self.said = True
            self.ranks.broadcast(start)

    @contextmanager
    def speaking(self) -> Iterator[Leader]:
        """Send at the end of the context that nothing starts, unless the message was sent inside."""
        try:
            yield self
        except BaseException as e:
            self.say(Start(False, error=(str(e), isinstance(e, DirectoryBusy))))
            raise
        self.say(Start(False))


@contextmanager
def joined(cfg: TrainConfig) -> Iterator[Ranks | None]:
    """Join the other processes of the run, if the environment names any; None is a run with this process alone."""
    if place().size == 1:
        yield None
        return
    with Ranks.from_environment(choose_device(cfg), cfg.rank_timeout_minutes) as ranks:
        yield ranks


def agree(ranks: Ranks, signals: SignalFlag, due: bool) -> tuple[int | None, bool]:
    """Take this rank's signal; return the signal that all ranks act on, and whether a checkpoint is due on some rank.

    A signal that asks to leave comes before all others.
    """
    signum = signals.take()
    leaves = signals.leaves(signum)
    leave, keep, any_due = ranks.max([(signum or 0) * leaves, (signum or 0) * (not leaves), int(due)])
    return leave or keep or None, bool(any_due)


class Follower:
    """The observer of a trainer that is not rank 0's: takes part in every decision, and writes nothing."""

    def __init__(self, trainer: Trainer, signals: SignalFlag) -> None:
        self.trainer, self.signals = trainer, signals

    def poll(self) -> None:
        """Act on the signals of all ranks."""
        self._act(*agree(self.trainer.ranks, self.signals, False))

    def stopping(self) -> bool:
        """Return whether a signal asks this rank to leave."""
        return self.signals.stops

    def row(self, row: dict[str, float]) -> None:
        """Leave the row to rank 0."""

    def boundary(self) -> None:
        """Take part in a checkpoint, if rank 0 writes one; leave if a signal asks the run to leave."""
        self.poll()

    def _act(self, signum: int | None, due: bool) -> None:
        if signum is not None or due:
            self.trainer.state_dict()  # rank 0 asks for the state of all ranks
        if self.signals.leaves(signum):
            raise Preempted(signum, self.trainer.step)


def follow(config: Config, ranks: Ranks, signals: SignalFlag) -> None:
    """Train beside rank 0, from the start or from the state that rank 0 has read.

    Raises:
        ConfigError: this rank was started with another configuration, or the number of ranks does not fit.
        DirectoryBusy, AtRankZero: rank 0 could not start the run.
        Diverged, Preempted: as on rank 0, which reports it.
    """
    start = ranks.broadcast(Start(False))
    if start.error is not None:
        message, busy = start.error
        raise DirectoryBusy(message) if busy else AtRankZero(f"rank 0: {message}")
    if not start.trains:
        return
    if start.config != to_plain(config):
        allowed = "differs from that of rank 0: start all ranks by the same command, with the same conf/"
        raise ConfigError("configuration", f"of rank {ranks.rank}", allowed)
    check_ranks(config.train, ranks, start.state)
    if config.train.num_threads is not None:
        torch.set_num_threads(config.train.num_threads)
    trainer, _ = build(config, ranks.device, start_weights=start.state is None, ranks=ranks)
    if start.state is not None:
        trainer.load_state_dict(start.state)
    try:
        trainer.fit(Follower(trainer, signals), start.until)
    except COMMON:
        ranks.barrier()  # rank 0 writes its last files; torchrun ends all processes when one ends in an error
        raise
    trainer.state_dict()  # of the last checkpoint
