"""A job with two tasks comes to a run directory that another machine still seems to write."""

import json
import os
import time
from contextlib import nullcontext
from unittest import mock

import pytest
from support.ranked import SMALL, on_ranks
from support.runs import compose_tiny

import fsamlab.run as run_module
from fsamlab.config import to_plain
from fsamlab.config.identity import run_id
from fsamlab.rundir import ownership
from fsamlab.rundir.frozen_job import FrozenJob
from fsamlab.rundir.reading import read_environment, read_status


def come(ranks, job):
    """Train on the ranks, as the tasks of a job do; return how long this rank has slept, and its process."""
    slept, sleep = [], time.sleep

    def counted(seconds):
        if seconds == 5:  # else a lock sleeps
            slept.append(seconds)
        sleep(seconds)

    owner = job.directory / "owner.json"
    if ranks.is_main:
        os.utime(owner)  # the last heartbeat; as old as this, it is stale after the first sleep
    ranks.barrier()
    with (
        mock.patch.dict(os.environ, SLURM_JOB_ID="4"),
        mock.patch.object(run_module, "joined", return_value=nullcontext(ranks)),
        mock.patch.object(ownership, "STALE_SECONDS", 4.0),
        mock.patch.object(run_module.time, "sleep", counted),
    ):
        run_module.run_frozen(job)
    return slept, os.getpid()


@pytest.mark.long
def test_the_ranks_wait_together_for_a_stale_heartbeat(tmp_path):
    config = compose_tiny(*SMALL, "optimizer=fsam", "train.epochs=1")
    directory = tmp_path / run_id(config)
    directory.mkdir()
    owner = {"token": "x", "attempt": 1, "host": "elsewhere", "pid": 1, "pid_start": "1", "slurm_job_id": "3"}
    (directory / "owner.json").write_text(json.dumps(owner))
    job = FrozenJob("", to_plain(config), [], directory, {})
    (slept, writer), (also_slept, _) = on_ranks(2, __file__, "come", job, tmp_path / "ranks")
    assert slept == also_slept == [5]
    status, environment = read_status(directory), read_environment(directory)
    assert (status["status"], status["attempts"], status["pid"]) == ("finished", 2, writer)
    assert environment is not None
    assert environment["num_ranks"] == 2
