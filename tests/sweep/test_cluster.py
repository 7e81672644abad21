import subprocess
import sys

import pytest
from support.fake_slurm import DISABLED, DOWN, INVALID, fake_tools, lines  # noqa: F401

from fsamlab.sweep import cluster
from fsamlab.sweep.cluster import GONE, JobState, cancel_command, job_states


def test_squeue_knows_all_and_is_asked_once(fake):
    calls = fake(squeue=lines("7_0|RUNNING|None|n1|8", "7_1|PENDING|Priority||9", "5|TIMEOUT|TimeLimit|n2|5"))
    states = job_states(["7_0", "7_1", "5"])
    assert states["7_0"] == JobState("RUNNING", "", "n1", "8")
    assert states["7_1"].waiting
    assert states["7_1"].reason == "Priority"
    assert not states["5"].active
    assert states.problem is None
    assert [c.split(" -j ")[1] for c in calls()] == ["5,7"]


def test_a_task_is_found_by_its_own_number_too(fake):
    fake(squeue=lines("7_0|RUNNING|None|n1|8", "7_1|RUNNING|None|n1|7"))
    assert {k: s.raw_id for k, s in job_states(["8", "7"]).items()} == {"8": "8", "7": "7"}


def test_no_ids_no_calls(fake):
    calls = fake(squeue="exit 1")
    assert job_states([]) == {}
    assert calls() == []


def test_what_squeue_forgot_comes_from_sacct(fake):
    calls = fake(
        squeue=f'case "$*" in *" -j "*) {INVALID};; esac\necho "9|RUNNING|None|n1|9"',
        sacct=lines("7_0|COMPLETED|n1|8", "7_1|CANCELLED by 0|None assigned|10", "6|OUT_OF_MEMORY|n2|6"),
    )
    states = job_states(["9", "7_0", "7_1", "6", "3"])
    found = {k: s.state for k, s in states.items()}
    assert found == {"9": "RUNNING", "7_0": "COMPLETED", "7_1": "CANCELLED", "6": "OUT_OF_MEMORY", "3": GONE}
    assert states.problem is None
    assert len(calls()) == 3


def test_the_only_job_being_unknown_is_an_answer(fake):
    calls = fake(squeue=INVALID, sacct=DISABLED)
    states = job_states(["7_0", "7_1"])
    assert {s.state for s in states.values()} == {GONE}
    assert states.problem is None
    assert len(calls()) == 2


def test_the_controller_knows_better_than_accounting_what_is_active(fake):
    fake(squeue=INVALID, sacct=lines("7|RUNNING|n1|7"))
    assert job_states(["7"])["7"].state == GONE


@pytest.mark.parametrize("name", ["7_[5-8%2]", "7_[5-8]", "7_[5,6-8]"])
def test_pending_tasks_in_one_line_of_sacct(fake, name):
    fake(squeue=DOWN, sacct=lines(f"{name}|PENDING|None assigned|7"))
    states = job_states([f"7_{i}" for i in range(5, 10)])
    assert sorted(states) == ["7_5", "7_6", "7_7", "7_8"]
    assert all(s.waiting for s in states.values())
    assert "Unable to contact slurm controller" in states.problem


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ({}, "no squeue on this machine; no sacct on this machine"),
        ({"squeue": DOWN, "sacct": DISABLED}, "connect failure); sacct: Slurm accounting storage is disabled"),
        ({"squeue": "exit 3", "sacct": "exit 4"}, "squeue: exit code 3; sacct: exit code 4"),
    ],
)
def test_who_cannot_be_asked_makes_nobody_gone(fake, tools, words):
    fake(**tools)
    states = job_states(["7", "8_1"])
    assert states == {}
    assert words in states.problem
    assert "\n" not in states.problem


def test_a_scheduler_that_hangs(fake, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", 0.2)
    fake(squeue="exec /bin/sleep 5", sacct=lines("7|COMPLETED|n1|7"))
    states = job_states(["7", "8"])
    assert list(states) == ["7"]
    assert "no answer in 0.2 s" in states.problem


def test_cancel_names_what_is_active():
    def states(**words):
        return {k[1:]: JobState(w) for k, w in words.items()}

    assert cancel_command([]) is None
    assert cancel_command(["7_0", "7_1", "9"]) == "scancel 7 9"
    assert cancel_command(["7_0", "7_1"], states(j7_0="RUNNING", j7_1="PENDING")) == "scancel 7"
    some = states(j7_0="RUNNING", j7_1="FAILED", j7_2="PENDING", j7_3="PENDING")
    assert cancel_command(sorted(some), some) == "scancel '7_[0,2-3]'"
    assert cancel_command(["7_0", "7_1"], states(j7_1="REQUEUED")) == "scancel 7_1"
    assert cancel_command(["7"], states(j7="FAILED")) is None


def test_the_module_is_light():
    code = "import sys, fsamlab.command.status_view; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
