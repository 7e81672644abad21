"""The status of a run whose process has ended without a word of its own, written by another process."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.find import has_living_owner
from fsamlab.rundir.reading import read_status
from fsamlab.rundir.record import now
from fsamlab.storage.locks import locked
from fsamlab.storage.reading import Damaged
from fsamlab.storage.writing import write_last_word

log = logging.getLogger(__name__)


def record_failure(directory: Path, reason: str) -> bool:
    """Write into a run's status.json that the run has failed in this SLURM job; return whether the file says so.

    A run that has written its own failure keeps its words. Nothing is written for a finished run, and nothing while a
    process writes into the directory: a newer attempt may have taken the directory over. A problem with the files is
    logged and raises nothing, because the other runs of the job go on.
    """
    try:
        with locked(directory / ".claim"):  # no process can take the directory meanwhile
            if has_living_owner(directory):
                return False
            status = read_status(directory)
            job = slurm_job_id()
            if status["status"] == "finished":
                return False
            if status["status"] == "failed" and status.get("slurm_job_id") == job:
                return True
            here = {"slurm_job_id": job, "slurm_cluster": os.environ.get("SLURM_CLUSTER_NAME"), "updated": now()}
            write_last_word(directory / "status.json", {**status, **here, "status": "failed", "exception": reason})
            return True
    except (OSError, Damaged) as e:
        log.error("%s: status.json could not be written: %s", directory, e)
        return False
