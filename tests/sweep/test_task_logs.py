"""Why a job with several tasks ended: srun names the first task, and the status of the run repeats it."""

import json

import pytest
from support.fake_slurm import fake_tools, lines  # noqa: F401

from fsamlab.storage.writing import write_json
from fsamlab.sweep.status import sweep_state
from fsamlab.sweep.task_logs import START, first_to_end

KILLED = """srun: error: 127.0.1.2: task 1: Killed
srun: launch/slurm: _step_signal: Terminating StepId=7.0
slurmstepd-127.0.1.1: error: *** STEP 7.0 ON 127.0.1.1 CANCELLED AT 2030-01-01T00:00:00 ***
srun: error: 127.0.1.1: task 0: Exited with exit code 1
srun: Force Terminated StepId=7.0
"""
RAISED = KILLED.replace("Killed", "Exited with exit code 1")
FIRST = "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: tasks 2-3: Exited with exit code 1\n"


def log(folder, text, job="7_0", task=0, end="err"):
    path = folder / ".submitit" / job / f"{job}_{task}_log.{end}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def begin(restart=0):
    return f"{START} 127.0.1.[1-2], restart {restart}\n"


def test_the_first_task_that_ended_badly(tmp_path):
    folder = tmp_path / ".submitit"
    assert first_to_end(folder, "7_0") is None  # no log
    log(tmp_path, "Traceback\nsrun: error: n1: task 0: Exited with exit code 1\n")
    assert first_to_end(folder, "7_0") is None  # one task: its own log says all
    log(tmp_path, begin() + "some words of task 0\n")
    assert first_to_end(folder, "7_0") is None
    log(tmp_path, begin() + KILLED)
    other = log(tmp_path, "resuming at step 5\n", task=1)
    assert first_to_end(folder, "7_0") == (1, "task 1 on 127.0.1.2: Killed", other)
    log(tmp_path, begin() + RAISED)
    other.write_text("Traceback (most recent call last):\nValueError: no such file\n\n")
    said = "task 1 on 127.0.1.2: Exited with exit code 1: ValueError: no such file"
    assert first_to_end(folder, "7_0") == (1, said, other)
    path = log(tmp_path, begin() + FIRST)
    assert first_to_end(folder, "7_0") == (0, "task 0 on n1: Exited with exit code 1", path)


def test_only_the_last_start_of_a_job_counts(tmp_path):
    log(tmp_path, begin() + FIRST + begin(1) + KILLED)
    found = first_to_end(tmp_path / ".submitit", "7_0")
    assert found is not None
    assert found.task == 1
    log(tmp_path, begin() + KILLED + begin(1) + "trains\n")
    assert first_to_end(tmp_path / ".submitit", "7_0") is None


def test_one_file_for_both_streams_and_a_long_log(tmp_path):
    log(tmp_path, "x" * 200_000 + "\n" + begin() + KILLED, end="out")
    found = first_to_end(tmp_path / ".submitit", "7_0")
    assert found is not None
    assert found.words == "task 1 on 127.0.1.2: Killed"


@pytest.mark.parametrize(
    ("srun", "slurm", "disk", "reason", "where"),
    [
        (KILLED, "FAILED", "RankLost: lost", "SLURM FAILED: task 1 on 127.0.1.2: Killed", "7_0_1_log.err"),
        (FIRST, "FAILED", "Diverged: at step 3", "SLURM FAILED: Diverged: at step 3", "run.log"),
        (FIRST, "FAILED", "RankLost: too late", "SLURM FAILED: RankLost: too late", "run.log"),
        (RAISED, "FAILED", "Diverged: at step 3", "SLURM FAILED: Diverged: at step 3", "run.log"),
        (FIRST, "FAILED", None, "SLURM FAILED: task 0 on n1: Exited with exit code 1", "7_0_0_log.err"),
        (KILLED, "CANCELLED", None, "SLURM CANCELLED: the last words of task 0", "run.log"),
    ],
)
def test_status_names_the_task(tmp_path, fake, srun, slurm, disk, reason, where):
    fake(squeue=lines(f"7_0|{slurm}|None|127.0.1.[1-2]|8"))
    run = tmp_path / "a"
    run.mkdir()
    word = {"status": "failed" if disk else "running", "exception": disk, "slurm_job_id": "8"}
    (run / "status.json").write_text(json.dumps(word))
    (run / "run.log").write_text("the last words of task 0\n")
    job = {"overrides": [], "directory": "a", "run_id": "a", "config_hash": "0", "slurm_job_id": "7_0"}
    (tmp_path / "launches").mkdir()
    write_json(tmp_path / "launches" / "1.json", {"launcher": "slurm", "sweep_dir": str(tmp_path), "jobs": [job]})
    log(tmp_path, begin() + srun)
    log(tmp_path, "", task=1)
    (state,) = sweep_state([tmp_path]).runs
    assert (state.status, state.reason) == (slurm.lower(), reason)
    assert state.log.name == where
