"""Worker processes of a DataLoader that end, in bounded time, whenever the loop over their batches ends.

The workers ignore the signals that a scheduler sends to a whole job, so that the main process can finish its batch and
write a checkpoint. When Python exits, it terminates its child processes by SIGTERM and waits for them: for processes
that ignore SIGTERM it would wait for ever. Therefore these workers are ended by SIGKILL.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.context
import multiprocessing.popen_fork
import multiprocessing.process
import multiprocessing.queues
import multiprocessing.util
import os
import re
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fsamlab.config import ConfigError

SCHEDULER_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
FILES = "allow more open files (`ulimit -n`), or take fewer workers"
SHARED_MEMORY = "shared memory (/dev/shm) is too small: enlarge it, take fewer workers or smaller batches"
ADVICE = {errno.EMFILE: FILES, errno.ENFILE: FILES, errno.ENOSPC: SHARED_MEMORY}
TROUBLE = (  # patterns of messages about limits of the machine (not about the data) -> advice
    (r"Too many open files|ancdata", FILES),
    (r"No space left on device|Bus error|shared memory", SHARED_MEMORY),
    (r"DataLoader worker .* (exited unexpectedly|is killed by signal)", "take fewer workers or smaller batches"),
)


def ignore_signals(worker: int) -> None:
    """Make a worker ignore the signals that end the run; the worker ends with the main process, or at its command.

    Schedulers signal every process of a job. A worker that died of the signal would lose the batch, and the main
    process would fail before its checkpoint is written.
    """
    for number in SCHEDULER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SCHEDULER_SIGNALS)


class _Popen(multiprocessing.popen_fork.Popen):
    """A forked process whose `terminate` sends SIGKILL."""

    def terminate(self) -> None:
        self.kill()


class _Process(multiprocessing.context.ForkProcess):
    """A worker. Python's exit and torch both call `terminate` and then wait."""

    @staticmethod
    def _Popen(process_obj: multiprocessing.process.BaseProcess) -> _Popen:
        return _Popen(process_obj)


class _Queue(multiprocessing.queues.Queue):
    """A queue whose sender dies when it cannot send an item, so that the receiver does not wait for ever."""

    @staticmethod
    def _on_queue_feeder_error(e: Exception, obj: Any) -> None:
        traceback.print_exception(e)
        if isinstance(multiprocessing.current_process(), _Process):
            os._exit(1)  # an exception would end only this thread; the main process notices a dead worker


class Workers(multiprocessing.context.ForkContext):
    """The multiprocessing context of one DataLoader; keeps the processes that were made with it."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[_Process] = []
        self._owner = os.getpid()
        # runs before Python terminates child processes, and also in a forked process, where atexit does not run
        self.at_exit = multiprocessing.util.Finalize(None, self.kill, exitpriority=100)

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]  # a class in the stubs
        """Make a worker; the worker is not started yet."""
        self.processes.append(_Process(*args, **kwargs))
        return self.processes[-1]

    def Queue(self, maxsize: int = 0) -> _Queue:
        """Make a queue."""
        return _Queue(maxsize, ctx=self.get_context())

    @property
    def well(self) -> bool:
        """Whether no worker has died."""
        return all(p.exitcode in (None, 0) for p in self.processes)

    def kill(self) -> None:
        """Kill all workers at once and wait for them."""
        if os.getpid() != self._owner:
            return  # this object was copied into a forked process; the workers belong to the owner
        handler = signal.getsignal(signal.SIGCHLD)
        # torch's SIGCHLD handler raises when it sees a killed worker before p.join() has reaped the worker
        replace = callable(handler) and threading.current_thread() is threading.main_thread()
        if replace:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            for p in self.processes:
                if p.pid is not None:  # started
                    p.kill()
                    p.join()
        finally:
            if replace:
                signal.signal(signal.SIGCHLD, handler)
            self.at_exit.cancel()


def start_workers(loader: DataLoader[Any]) -> Any:
    """Return the loader's iterator. The workers start with the signals blocked, until they ignore the signals.

    Forked workers inherit the signal mask of this process. A signal to this process in the meantime is delivered when
    the mask is restored.

    Raises:
        ConfigError: the limits of the machine do not allow so many workers; no worker is left behind.
    """
    workers = loader.multiprocessing_context
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SCHEDULER_SIGNALS)
    try:
        return iter(loader)
    except BaseException as e:
        workers.kill()
        for frame, _ in traceback.walk_tb(e.__traceback__):
            half = frame.f_locals.get("self")
            if isinstance(half, _MultiProcessingDataLoaderIter):
                half._shutdown = True  # half made: its destructor would use attributes that do not exist yet
        # Closes the pipes in the frames: after "too many open files" the next lines need files.
        traceback.clear_frames(e.__traceback__)
        if isinstance(e, OSError):
            advice = ADVICE.get(e.errno or 0, "take fewer workers")
            reason = f"cannot start the worker processes ({e.strerror}): {advice}"
            raise ConfigError("data.num_workers", loader.num_workers, reason) from None
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def from_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader; the workers end with the loop, however the loop is left.

    Args:
        loader: made with `multiprocessing_context=Workers()` and at least one worker.

    Raises:
        ConfigError: a worker died, or the limits of the machine do not allow what the workers need.
    """
    workers = loader.multiprocessing_context
    batches = start_workers(loader)
    try:
        yield from batches
    except RuntimeError as e:
        advice = next((advice for pattern, advice in TROUBLE if re.search(pattern, str(e))), None)
        if advice is None:
            raise
        last = str(e).strip().splitlines()[-1].removeprefix("RuntimeError: ")
        reason = f"the worker processes cannot continue ({last}): {advice}"
        raise ConfigError("data.num_workers", loader.num_workers, reason) from None
    finally:
        with contextlib.ExitStack() as stack:
            stack.callback(workers.kill)
            if workers.well:  # a dead worker may hold a lock for which torch's shutdown would wait for ever
                batches._shutdown_workers()
            batches._shutdown = True
