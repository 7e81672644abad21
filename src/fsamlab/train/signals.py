"""Signals as a flag that is polled where it is safe to stop.

Outside SLURM, TERM, INT and USR2 mean: checkpoint at the next boundary and leave; a second INT leaves
at once. Inside a SLURM job TERM means: checkpoint and go on until killed, since a job that exits in
the grace time is not requeued; USR2 is submitit's, whose own handler is called after the checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from types import FrameType
from typing import Any, TypeGuard

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Preempted(Exception):
    """The run was asked to stop, has written its checkpoint and can be resumed by the same command."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"preempted by {signal.Signals(signum).name} after step {step}; the same command resumes it")
        self.signum = signum
        self.step = step


class SignalFlag:
    """Context manager: while it is open, the handled signals are kept until they are taken, and nothing else happens.

    What was never taken, since the work had come to its end, reaches the handlers that were there before when the
    context ends without an exception: the program around the run is to stop, too.
    """

    def __init__(self) -> None:
        self.in_slurm = "SLURM_JOB_ID" in os.environ
        self._pending: deque[int] = deque()  # a handler may run between any two operations, and a deque's are whole
        self._interrupted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        if threading.current_thread() is threading.main_thread():
            for s in HANDLED:
                self._previous[s] = signal.signal(s, self._handle)
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        for s, handler in self._previous.items():
            signal.signal(s, handler if handler is not None else signal.SIG_DFL)
        signum = self.take()
        if kind is None and signum is not None and not self._for_slurm(signum):
            os.kill(os.getpid(), signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self._interrupted:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            self._interrupted = True
        self._pending.append(signum)

    def _leaves(self, signum: int) -> bool:
        return not (self.in_slurm and signum == signal.SIGTERM)

    def _for_slurm(self, signum: int) -> bool:
        """Whether a signal came from SLURM to a job that has ended by itself: there is nothing left to requeue."""
        return self.in_slurm and signum != signal.SIGINT

    @property
    def stops(self) -> bool:
        """Whether a signal that waits asks for leaving, and not only for a checkpoint."""
        return any(map(self._leaves, tuple(self._pending)))

    def take(self) -> int | None:
        """Return the signal to act on, and forget those that came before now; None where none waits.

        It is the first that asks for leaving, else the first. Take it before acting: one that comes meanwhile waits.
        """
        taken: list[int] = []
        while self._pending:
            taken.append(self._pending.popleft())
        return next(filter(self._leaves, taken), taken[0] if taken else None)

    def leaves(self, signum: int | None) -> TypeGuard[int]:
        """Return whether a signal that was taken asks for leaving."""
        return signum is not None and self._leaves(signum)

    def requeue(self, signum: int) -> None:
        """Hand the signal to the handler that was there before (inside SLURM: submitit's, which requeues)."""
        handler = self._previous.get(signum)
        submitit = "SUBMITIT_EXECUTOR" in os.environ
        if submitit and signum == signal.SIGUSR2 and callable(handler):
            handler(signum, None)
