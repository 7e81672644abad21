"""A thread that makes calls in order, so that the caller decides how long it waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """Makes submitted calls one after another in a daemon thread.

    A daemon, unlike the threads of `concurrent.futures`: a call that never returns must not keep the
    interpreter from ending.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def num_waiting(self) -> int:
        """The number of calls that have not begun."""
        return self._calls.qsize()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Queue a call; returns at once."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as e:  # SystemExit too, which wandb.teardown raises: it belongs to the caller
                future.set_exception(e)


def within(seconds: float, call: Callable[[], Any], name: str) -> Any:
    """Return what `call` returns, or give it up.

    Raises:
        TimeoutError: it has not returned after `seconds`; its thread is left behind.
    """
    return wait(Worker(name).submit(call), seconds, name)


def wait(future: Future[Any], seconds: float, what: str) -> Any:
    """Return a future's result.

    Raises:
        TimeoutError: there is none after `seconds`.
    """
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(seconds):
        raise TimeoutError(f"{what}: no answer within {seconds:g} s")
    return future.result()
