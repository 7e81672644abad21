"""The W&B mirror behind its guard: whatever W&B does, training neither fails nor waits.

All calls are made in order by one thread. `log` only queues, so it takes microseconds even when W&B
hangs; `start` and `finish` wait for a bounded time. The first failure that a restart cannot mend is one
warning, and the end of W&B for this run.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fsamlab.config import TrackerConfig
from fsamlab.tracking.wandb_session import WandbSession, kill_service, service_process
from fsamlab.tracking.worker import Worker, wait, within

log = logging.getLogger(__name__)

MAX_WAITING = 10_000  # rows; a mirror that is so far behind has stopped
MAX_RESTARTS = 1
GRACE_SECONDS = 5.0  # beyond init_timeout, for importing wandb and starting wandb-core
KILL_SECONDS = 5.0


class WandbTracker:
    """One W&B run with a stable id. A row that the server has already is not sent again.

    Attributes:
        url: where the server shows the run; None offline, and when it could not be opened.
    """

    def __init__(self, cfg: TrackerConfig, mode: str, start_step: int, metrics: Path | None) -> None:
        self.url: str | None = None
        self._cfg, self._mode, self._metrics = cfg, mode, metrics
        self._last_step = start_step  # the last one that needs no sending
        self._restarts = 0
        self._ended = False
        self._warned = False
        self._session: WandbSession | None = None
        self._worker = Worker("wandb-tracker")

    def start(self, **arguments: Any) -> None:
        """Open the run, or go on with it; `arguments` are those of :class:`WandbSession`."""
        self._open = partial(WandbSession, self._cfg, self._mode, **arguments)
        future = self._worker.submit(self._guarded("init", self._start))
        self._wait(future, self._cfg.init_timeout + GRACE_SECONDS, "init")
        if self.url is not None:
            log.info("W&B: %s", self.url)

    def log(self, row: dict[str, float], step: int) -> None:
        """Queue one row; returns at once."""
        if self._ended:
            return
        if self._worker.num_waiting >= MAX_WAITING:
            self._drop("log", TimeoutError(f"{MAX_WAITING} rows are waiting"), patience=0)
            return
        self._worker.submit(self._guarded("log", partial(self._log, dict(row), step)))

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """Send what is left and end the run.

        Returns within cfg.finish_timeout, and at most 5 s later when wandb-core has to be killed.
        """
        if self._ended:
            return
        future = self._worker.submit(self._guarded("finish", partial(self._finish, dict(summary), exit_code)))
        self._wait(future, self._cfg.finish_timeout, "finish")
        self._ended = True

    def _start(self) -> None:
        start_step = self._last_step
        self._session = self._open()
        if self._ended:  # given up while it opened: leave nothing that the interpreter's end would wait for
            kill_service()
            return
        if self._mode == "online" and self._metrics is not None:
            self._last_step = self._session.server_step
            self._replay(up_to=start_step)
        self._last_step = max(self._last_step, self._session.server_step, start_step)
        self.url = self._session.url

    def _log(self, row: dict[str, float], step: int) -> None:
        if step > self._last_step:
            assert self._session is not None
            self._session.log(row, step)
            self._last_step = step

    def _finish(self, summary: dict[str, Any], exit_code: int) -> None:
        assert self._session is not None
        self._session.finish(summary, exit_code)

    def _replay(self, up_to: float = float("inf")) -> None:
        """Send the rows of metrics.jsonl that the server lacks: what died with a killed wandb-core."""
        assert self._metrics is not None
        for row in read_rows(self._metrics):
            if row["step"] <= up_to:
                self._log(row, int(row["step"]))

    def _guarded(self, what: str, call: Callable[[], None]) -> Callable[[], None]:
        """Return `call` for the worker: nothing once W&B has been dropped; at most one restart when wandb-core dies."""

        def guarded() -> None:
            if self._ended:
                return
            try:
                try:
                    call()
                except Exception:
                    if not self._can_restart():
                        raise
                    self._restart()
                    call()
                if self._session is not None and self._session.problems:
                    self._warn(f"W&B reported: {' '.join(self._session.problems)}")
            except (Exception, SystemExit) as e:  # wandb.teardown raises SystemExit; this is not the main thread
                self._drop(what, e)

        return guarded

    def _can_restart(self) -> bool:
        """Whether wandb-core died, as of a signal to all processes of a job, and a restart would leave no gap."""
        if self._session is None or self._mode != "online" or self._metrics is None or self._restarts == MAX_RESTARTS:
            return False
        time.sleep(0.1)  # its socket closes before it can be waited for
        process = service_process()
        return process is not None and process.poll() is not None

    def _restart(self) -> None:
        self._restarts += 1
        kill_service()
        self._session = self._open()
        self._last_step = self._session.server_step
        self._replay()

    def _wait(self, future: Any, seconds: float, what: str) -> None:
        try:
            wait(future, seconds, what)
        except Exception as e:  # whatever it is: a mirror does not end what it mirrors
            self._drop(what, e)

    def _warn(self, what: str) -> None:
        """Log the one warning of this run."""
        if not self._warned:
            self._warned = True
            advice = "training and the run's own files are not affected; `fsamlab sync` sends what is missing"
            log.warning("%s (%s)", " ".join(what.split()), advice)

    def _drop(self, what: str, why: BaseException, patience: float = KILL_SECONDS) -> None:
        """Say once that W&B failed, and make sure that nothing waits for it any more."""
        if self._ended:
            return
        self._ended = True
        self._warn(f"W&B failed in {what}: {type(why).__name__}: {why}")
        try:
            within(patience, kill_service, "ending wandb-core")
        except Exception as e:
            log.debug("wandb-core could not be ended: %s", e)


def read_rows(metrics: Path) -> Iterator[dict[str, float]]:
    """Yield the rows of a metrics.jsonl, none if there is no file; a line that is still being written is left out."""
    if not metrics.exists():
        return
    with metrics.open(encoding="utf-8") as f:
        for line in f:
            if line.endswith("\n"):
                yield json.loads(line)
