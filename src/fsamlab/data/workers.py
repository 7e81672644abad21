"""Worker processes of a DataLoader that end with every way out of the loop that they feed, in bounded time.

Workers are deaf to the signals that a scheduler sends to a whole job, so that the main process can still take the
batch it works on and write its checkpoint. At its end Python terminates its child processes by SIGTERM and waits for
them: for deaf ones it would wait for ever. These workers are therefore ended by SIGKILL.
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
TROUBLE = (  # what torch's and multiprocessing's messages say of the machine's limits, and not of the data
    (r"Too many open files|ancdata", FILES),
    (r"No space left on device|Bus error|shared memory", SHARED_MEMORY),
    (r"DataLoader worker .* (exited unexpectedly|is killed by signal)", "take fewer workers or smaller batches"),
)


def ignore_signals(worker: int) -> None:
    """Make a worker deaf to what ends the run; it ends when the main process does, or tells it to.

    Schedulers signal every process of a job: a worker that died of it would take the batch, and with it
    the main process, down before the checkpoint is written.
    """
    for number in SCHEDULER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SCHEDULER_SIGNALS)


class _Popen(multiprocessing.popen_fork.Popen):
    """A forked process that `terminate` really ends."""

    def terminate(self) -> None:
        self.kill()


class _Process(multiprocessing.context.ForkProcess):
    """A worker. Python's end and torch both call `terminate` and then wait."""

    @staticmethod
    def _Popen(process_obj: multiprocessing.process.BaseProcess) -> _Popen:
        return _Popen(process_obj)


class _Queue(multiprocessing.queues.Queue):
    """A queue whose sender dies of an item that it cannot send; a lost item would be waited for without end."""

    @staticmethod
    def _on_queue_feeder_error(e: Exception, obj: Any) -> None:
        traceback.print_exception(e)
        if isinstance(multiprocessing.current_process(), _Process):
            os._exit(1)  # a thread's exception ends nothing; the main process sees a worker that is gone


class Workers(multiprocessing.context.ForkContext):
    """The multiprocessing context of one DataLoader; it knows the processes that were made in it."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[_Process] = []
        self._owner = os.getpid()
        # before Python terminates child processes by itself, and also in a child process, where atexit does not run
        self.at_exit = multiprocessing.util.Finalize(None, self.kill, exitpriority=100)

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]  # a class in the stubs
        """Make a worker, not yet started."""
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
        """End all workers at once and wait for them."""
        if os.getpid() != self._owner:
            return  # a copy in a process that was forked from the owner
        handler = signal.getsignal(signal.SIGCHLD)
        # torch's handler raises when it finds a killed worker that has not been waited for yet
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
    """Return the loader's iterator; its workers are born with the signals blocked, until they ignore them.

    A signal to this process in the meantime reaches it when its own mask is back. Forked workers inherit the mask.

    Raises:
        ConfigError: the machine's limits do not allow so many workers. None is left.
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
                half._shutdown = True  # its destructor would stumble over what it has not yet
        traceback.clear_frames(e.__traceback__)  # frees the pipes: after too many open files, some are needed again
        if isinstance(e, OSError):
            advice = ADVICE.get(e.errno or 0, "take fewer workers")
            reason = f"cannot start the worker processes ({e.strerror}): {advice}"
            raise ConfigError("data.num_workers", loader.num_workers, reason) from None
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def from_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield a loader's batches; however the loop over them is left, its workers end with it.

    Args:
        loader: made with `multiprocessing_context=Workers()` and at least one worker.

    Raises:
        ConfigError: a worker died, or the machine's limits do not allow what the workers need.
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
        reason = f"the worker processes cannot go on ({last}): {advice}"
        raise ConfigError("data.num_workers", loader.num_workers, reason) from None
    finally:
        with contextlib.ExitStack() as stack:
            stack.callback(workers.kill)
            if workers.well:  # one that died may hold a lock that torch's way of ending waits for
                batches._shutdown_workers()
            batches._shutdown = True
