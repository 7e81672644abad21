"""Signals as a flag that is polled where it is safe to stop.

Outside SLURM, TERM, INT and USR2 mean: checkpoint at the next boundary and leave; a second INT leaves
at once. Inside a SLURM job TERM means: checkpoint and go on until killed, since a job that exits in
the grace time is not requeued; USR2 is submitit's, whose own handler is called after the checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Preempted(Exception):
    """The run was asked to stop, has written its checkpoint and can be resumed by the same command."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"preempted by {signal.Signals(signum).name} after step {step}; the same command resumes it")
        self.signum = signum
        self.step = step


class SignalFlag:
    """Context manager: while it is open, the handled signals set `received` and nothing else happens."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.in_slurm = "SLURM_JOB_ID" in os.environ
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        if threading.current_thread() is threading.main_thread():
            for s in HANDLED:
                self._previous[s] = signal.signal(s, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for s, handler in self._previous.items():
            signal.signal(s, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        if not self.stops:  # one that asks for leaving is never replaced: only USR2 ends in a requeue
            self.received = signum

    @property
    def stops(self) -> bool:
        """Whether the received signal asks for leaving, and not only for a checkpoint."""
        return self.received is not None and not (self.in_slurm and self.received == signal.SIGTERM)

    def take(self) -> int | None:
        """Return the received signal and forget it."""
        signum, self.received = self.received, None
        return signum

    def requeue(self, signum: int) -> None:
        """Hand the signal to the handler that was there before (inside SLURM: submitit's, which requeues)."""
        handler = self._previous.get(signum)
        submitit = "SUBMITIT_EXECUTOR" in os.environ
        if submitit and signum == signal.SIGUSR2 and callable(handler):
            handler(signum, None)
