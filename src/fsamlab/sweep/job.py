"""The start of a job: open the log, and call the function that the job names.

submitit pickles a :class:`JobRunner` and a FrozenJob. Pickles of earlier versions, which may wait in a queue, name both
classes by this module.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from fsamlab.config import ConfigError
from fsamlab.rundir.frozen_job import MEASURE, FrozenJob
from fsamlab.sweep.rendezvous import join_tasks, task_number
from fsamlab.terminal import errors

log = logging.getLogger(__name__)

__all__ = ["FrozenJob", "JobRunner", "log_to", "make_directory"]  # FrozenJob: for the pickles of earlier versions

MOVED = {"fsamlab.measure:measure_frozen": MEASURE}  # tasks of jobs that were submitted before the functions moved


class JobRunner:
    """The function that submitit calls. It has no state: a restart finds all it needs in the run directory."""

    def __call__(self, job: FrozenJob) -> None:
        """Run a job, or the part of one task of the job.

        The log goes to stderr, which submitit writes to a file of the task; the first task also writes run.log in the
        directory of the job.
        """
        make_directory(job.directory)
        is_first = task_number() == 0
        log_to(job.directory / "run.log" if is_first else None)
        module, _, function = MOVED.get(job.task, job.task).partition(":")
        try:
            join_tasks()
            getattr(import_module(module), function)(job)
        except Exception as e:
            log.error("%s", errors.one_line(e) or traceback.format_exc())
            # The first task asks SLURM to start the job again, and its exit code is the job's. After another code of
            # this task srun would end the first task, perhaps before SLURM has heard.
            if not is_first and type(e).__name__ == "Preempted":
                sys.exit(0)
            raise

    def checkpoint(self, job: FrozenJob) -> Any:
        """Return the job that submitit submits again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def make_directory(directory: Path) -> None:
    """Make the directory that a job writes to, but not the directory of the sweep.

    Raises:
        ConfigError: the sweep was moved or deleted while the job waited. Making the sweep's directory again would split
            a moved sweep into two.
    """
    try:
        directory.mkdir(exist_ok=True)
    except FileNotFoundError as e:
        now = "does not exist any more; if the sweep was moved, give `fsamlab resubmit` the new place"
        raise ConfigError("directory", directory.parent, now) from e


def log_to(path: Path | None) -> None:
    """Send the log to a file, as conf/hydra/job_logging/run.yaml does, and to stderr, unless stderr is that file.

    Args:
        path: the file; None sends the log to stderr alone.
    """
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = []
    if path is not None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s %(message)s"))
        root.handlers.append(file)
    if path is None or not os.path.samestat(path.stat(), os.fstat(sys.stderr.fileno())):
        root.handlers.append(logging.StreamHandler(sys.stderr))
