"""One job of a sweep as it was at submission: what submitit pickles, and what the job does when it starts.

A job may wait for days. It is therefore handed the composed configuration and its run directory, and does
not compose again: an edit of conf/ or sweeps/ reaches new launches only. Code cannot be frozen that way;
its digest is, and the job compares.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fsamlab.config import ConfigError
from fsamlab.terminal import errors

log = logging.getLogger(__name__)

MOVED = {  # tasks of jobs that were submitted when the functions lay elsewhere
    "fsamlab.measure:measure_frozen": "fsamlab.command.measure:measure_frozen",
}


@dataclass(frozen=True)
class FrozenJob:
    """What one job runs.

    Attributes:
        task: `module:function`, called with this object.
        config: plain, as config.yaml holds it.
        overrides: what the configuration was composed from, for the record.
        directory: where the job writes, absolute.
        code: :func:`fsamlab.rundir.environment.code_version` at submission.
    """

    task: str
    config: dict[str, Any]
    overrides: list[str]
    directory: Path
    code: dict[str, Any]


class JobRunner:
    """What submitit calls; requeued as it is, since all that a restart needs lies in the run directory."""

    def __call__(self, job: FrozenJob) -> None:
        """Run a job; its log is run.log in its directory, and stderr."""
        make_directory(job.directory)
        log_to(job.directory / "run.log")
        module, _, function = MOVED.get(job.task, job.task).partition(":")
        try:
            getattr(import_module(module), function)(job)
        except Exception as e:
            log.error("%s", errors.one_line(e) or traceback.format_exc())
            raise

    def checkpoint(self, job: FrozenJob) -> Any:
        """Return what submitit submits again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def make_directory(directory: Path) -> None:
    """Make the directory that a job writes to, not what holds the directory.

    Raises:
        ConfigError: the sweep was moved or deleted while the job waited; a sweep is where it lies now.
    """
    try:
        directory.mkdir(exist_ok=True)
    except FileNotFoundError as e:
        now = "does not exist any more; where it was moved, give `fsamlab resubmit` the new place"
        raise ConfigError("directory", directory.parent, now) from e


def log_to(path: Path) -> None:
    """Send the log to a file, in the form of conf/hydra/job_logging/run.yaml, and to stderr where that is another."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [file]
    if not os.path.samestat(path.stat(), os.fstat(sys.stderr.fileno())):
        root.handlers.append(logging.StreamHandler(sys.stderr))
