"""A thread that makes calls in order, so that the caller can bound its waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """Makes submitted calls one after another in a daemon thread.

    The thread is a daemon, unlike the threads of `concurrent.futures`, so that a call that never returns does not keep
    the interpreter from ending.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def num_waiting(self) -> int:
        """The number of calls in the queue."""
        return self._calls.qsize()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Put a call into the queue, and return its future at once."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as e:  # also SystemExit, which wandb.teardown raises; the caller has to see it
                future.set_exception(e)


def within(seconds: float, call: Callable[[], Any], name: str) -> Any:
    """Make a call in a new thread and return its result.

    Raises:
        TimeoutError: the call has not returned after `seconds`. Its thread is left running.
    """
    return wait(Worker(name).submit(call), seconds, name)


def wait(future: Future[Any], seconds: float, what: str) -> Any:
    """Return the result of a future.

    Raises:
        TimeoutError: there is no result after `seconds`; `what` names the call in the message.
    """
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(seconds):
        raise TimeoutError(f"{what}: no answer within {seconds:g} s")
    return future.result()
