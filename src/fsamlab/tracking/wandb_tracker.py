"""The W&B mirror with a guard: whatever W&B does, training does not fail and does not wait.

One thread makes all calls of wandb, in order. `log` only puts a row into a queue, so it takes microseconds even if W&B
hangs. `start` and `finish` wait for a bounded time. A failure that a restart of wandb-core does not repair gives one
warning, and W&B is given up for this run.
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

MAX_WAITING = 10_000  # rows in the queue; with more rows waiting, W&B has stopped
MAX_RESTARTS = 1
GRACE_SECONDS = 5.0  # added to init_timeout for the import of wandb and the start of wandb-core
KILL_SECONDS = 5.0


class WandbTracker:
    """Mirrors one run to W&B under a stable id. A row that the server has already is not sent again.

    Args:
        cfg: the config of the tracker.
        mode: online or offline.
        start_step: the step from which training resumes.
        metrics: the run's metrics.jsonl, from which missing rows are sent; None sends no missing rows.

    Attributes:
        url: page of the run on the server; None if offline, or if the run could not be opened.
    """

    def __init__(self, cfg: TrackerConfig, mode: str, start_step: int, metrics: Path | None) -> None:
        self.url: str | None = None
        self._cfg, self._mode, self._metrics = cfg, mode, metrics
        self._last_step = start_step  # rows up to this step need not be sent
        self._restarts = 0
        self._ended = False
        self._warned = False
        self._session: WandbSession | None = None
        self._worker = Worker("wandb-tracker")

    def start(self, **arguments: Any) -> None:
        """Open a new or an existing run; `arguments` are those of :class:`WandbSession`."""
        self._open = partial(WandbSession, self._cfg, self._mode, **arguments)
        future = self._worker.submit(self._guarded("init", self._start))
        self._wait(future, self._cfg.init_timeout + GRACE_SECONDS, "init")
        if self.url is not None:
            log.info("W&B: %s", self.url)

    def log(self, row: dict[str, float], step: int) -> None:
        """Put one row into the queue, and return at once."""
        if self._ended:
            return
        if self._worker.num_waiting >= MAX_WAITING:
            self._drop("log", TimeoutError(f"{MAX_WAITING} rows are waiting"), patience=0)
            return
        self._worker.submit(self._guarded("log", partial(self._log, dict(row), step)))

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """Send the remaining rows and end the run.

        Returns within cfg.finish_timeout, or at most 5 s later if wandb-core has to be killed.
        """
        if self._ended:
            return
        future = self._worker.submit(self._guarded("finish", partial(self._finish, dict(summary), exit_code)))
        self._wait(future, self._cfg.finish_timeout, "finish")
        self._ended = True

    def _start(self) -> None:
        start_step = self._last_step
        self._session = self._open()
        if self._ended:  # `start` gave up while this was opening; the interpreter would wait for wandb-core at its end
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
        """Send the rows of metrics.jsonl that the server lacks, because a killed wandb-core has not sent them."""
        assert self._metrics is not None
        for row in read_rows(self._metrics):
            if row["step"] <= up_to:
                self._log(row, int(row["step"]))

    def _guarded(self, what: str, call: Callable[[], None]) -> Callable[[], None]:
        """Return a function for the worker that makes `call`.

        The function does nothing after W&B has been given up. If wandb-core has died, it restarts wandb-core and calls
        again, at most once in a run.
        """

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
            except (Exception, SystemExit) as e:  # wandb.teardown raises SystemExit, which must not end this thread
                self._drop(what, e)

        return guarded

    def _can_restart(self) -> bool:
        """Return whether wandb-core has died and a restart would leave no gap.

        SLURM signals all processes of a job, and wandb-core dies of signals that training survives.
        """
        if self._session is None or self._mode != "online" or self._metrics is None or self._restarts == MAX_RESTARTS:
            return False
        time.sleep(0.1)  # a dying process closes its socket a moment before poll() sees its end
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
        except Exception as e:  # no failure of a mirror may end the training
            self._drop(what, e)

    def _warn(self, what: str) -> None:
        """Log a warning, unless this run has logged one already."""
        if not self._warned:
            self._warned = True
            advice = "training and the run's own files are not affected; `fsamlab sync` sends what is missing"
            log.warning("%s (%s)", " ".join(what.split()), advice)

    def _drop(self, what: str, why: BaseException, patience: float = KILL_SECONDS) -> None:
        """Give W&B up for this run: warn once, and end wandb-core so that nothing waits for it."""
        if self._ended:
            return
        self._ended = True
        self._warn(f"W&B failed in {what}: {type(why).__name__}: {why}")
        try:
            within(patience, kill_service, "ending wandb-core")
        except Exception as e:
            log.debug("wandb-core could not be ended: %s", e)


def read_rows(metrics: Path) -> Iterator[dict[str, float]]:
    """Yield the rows of a metrics.jsonl, if the file exists. A line that is still being written is left out."""
    if not metrics.exists():
        return
    with metrics.open(encoding="utf-8") as f:
        for line in f:
            if line.endswith("\n"):
                yield json.loads(line)
