"""Signals set a flag; the training loop polls the flag where it is safe to stop.

Outside SLURM, TERM, INT and USR2 mean: write a checkpoint at the next step, then leave; a second INT leaves at once.
Inside a SLURM job TERM means: write a checkpoint and train on until SLURM kills the job, because SLURM does not requeue
a job that exits in the grace time. USR2 belongs to submitit: its handler is called after the checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from types import FrameType
from typing import Any, TypeGuard

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Preempted(Exception):
    """The run was asked to stop, has written its checkpoint, and the same command resumes the run."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"preempted by {signal.Signals(signum).name} after step {step}; the same command resumes it")
        self.signum = signum
        self.step = step


class SignalFlag:
    """Context manager that keeps the handled signals until the loop takes them.

    If the work ends before a signal is taken, and without an exception, the context sends the signal to the earlier
    handlers: the program around the run must stop too.
    """

    def __init__(self) -> None:
        self.in_slurm = "SLURM_JOB_ID" in os.environ
        # A handler may run between any two bytecodes; the operations of a deque are atomic.
        self._pending: deque[int] = deque()
        self._interrupted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        # Python allows signal handlers in the main thread only; in another thread the run just has no flag.
        if threading.current_thread() is threading.main_thread():
            for s in HANDLED:
                self._previous[s] = signal.signal(s, self._handle)
            # A run that shares its SLURM job with other runs begins with these signals blocked (sweep/pool.py).
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        # None stands for a handler that was not set from Python; signal.signal cannot set that handler again.
        for s, handler in self._previous.items():
            signal.signal(s, handler if handler is not None else signal.SIG_DFL)
        signum = self.take()
        if kind is None and signum is not None and not self._for_slurm(signum):
            os.kill(os.getpid(), signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            # A second Ctrl-C means: now. The default action ends the process even inside a long call of torch.
            if self._interrupted:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            self._interrupted = True
        self._pending.append(signum)

    def _leaves(self, signum: int) -> bool:
        return not (self.in_slurm and signum == signal.SIGTERM)

    def _for_slurm(self, signum: int) -> bool:
        """Return whether SLURM sent the signal to a job that has ended by itself: nothing is left to requeue."""
        return self.in_slurm and signum != signal.SIGINT

    @property
    def stops(self) -> bool:
        """Whether a waiting signal asks the run to leave, and not only to write a checkpoint."""
        return any(map(self._leaves, tuple(self._pending)))

    def take(self) -> int | None:
        """Return the signal to act on and forget all earlier signals; None where no signal waits.

        A signal that asks to leave comes before all others, else the first signal is returned. Take a signal before
        acting on it: a signal that arrives meanwhile waits.
        """
        taken: list[int] = []
        while self._pending:
            taken.append(self._pending.popleft())
        return next(filter(self._leaves, taken), taken[0] if taken else None)

    def leaves(self, signum: int | None) -> TypeGuard[int]:
        """Return whether a taken signal asks the run to leave."""
        return signum is not None and self._leaves(signum)

    def requeue(self, signum: int) -> None:
        """Pass the signal to the earlier handler: inside SLURM the handler of submitit, which requeues the job."""
        handler = self._previous.get(signum)
        submitit = "SUBMITIT_EXECUTOR" in os.environ
        if submitit and signum == signal.SIGUSR2 and callable(handler):
            try:
                handler(signum, None)
            except subprocess.CalledProcessError as e:
                if e.returncode != -signal.SIGTERM:
                    raise
                # SLURM ends all processes of a job that it requeues, and scontrol is one of them: SLURM has heard.
                sys.exit(-1)
