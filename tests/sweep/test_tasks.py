"""Several tasks for each job: which settings ask for them, what sbatch gets, and which jobs cannot use them."""

import logging
import os
import socket
import sys
import types

import pytest
from support.fake_slurm import fake_tools  # noqa: F401
from support.runs import compose_tiny

from fsamlab.config import ConfigError, to_plain
from fsamlab.rundir.frozen_job import EVALUATE, MEASURE, TRAIN, FrozenJob
from fsamlab.sweep import rendezvous
from fsamlab.sweep.job import JobRunner
from fsamlab.sweep.rendezvous import NoRendezvous, join_tasks, port_of, task_number
from fsamlab.sweep.slurm import SubmititLauncher, outside_of_a_job
from fsamlab.sweep.tasks import Tasks
from fsamlab.train.signals import Preempted


def job(tmp_path, *words, task=TRAIN):
    config = to_plain(compose_tiny("optimizer=sam"))
    for key, value in (word.split("=") for word in words):  # faster than to compose each configuration
        group, name = key.split(".")
        config[group][name] = int(value) if value.isdigit() else value
    return FrozenJob(task, config, [], tmp_path / "run", {})


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        ({}, Tasks(1, 1, 0)),
        ({"gpus_per_node": 1}, Tasks(1, 1, 1)),
        ({"gpus_per_node": None, "tasks_per_node": None, "nodes": None}, Tasks(1, 1, 0)),
        ({"gpus_per_node": 2, "nodes": 2}, Tasks(2, 2, 2)),
        ({"gpus_per_node": 4, "tasks_per_node": 4}, Tasks(1, 4, 4)),
        ({"gpus_per_node": 0, "tasks_per_node": 2}, Tasks(1, 2, 0)),
        ({"tasks_per_node": 1, "nodes": 2}, Tasks(2, 1, 0)),
    ],
)
def test_one_task_for_each_gpu_else_as_many_as_asked_for(settings, tasks):
    assert Tasks.of(settings) == tasks
    assert tasks.number == tasks.nodes * tasks.per_node


def test_a_job_says_its_tasks():
    assert str(Tasks(2, 2, 2)) == "4 tasks on 2 nodes, 4 GPUs"
    assert str(Tasks(2, 1)) == "2 tasks on 2 nodes"
    assert str(Tasks(1, 2, 2)) == "2 tasks on 1 node, 2 GPUs"


def test_what_a_job_costs_until_its_time_limit():
    assert Tasks(2, 4, 4).cost(90) == ": 12 GPU hours until its time limit"
    assert Tasks(2, 4, 0).cost(90) == Tasks(1, 1, 1).cost(None) == ""


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"gpus_per_node": 2, "tasks_per_node": 1}, "tasks_per_node=1", "use 2, or null"),
        ({"gpus_per_node": 1, "tasks_per_node": 2}, "tasks_per_node=2", "a task uses one GPU"),
        ({"cluster": "local", "nodes": 2}, "nodes=2", "this machine alone"),
        ({"additional_parameters": {"ntasks": 2}}, "additional_parameters.ntasks=2", "hydra.launcher.tasks_per_node"),
        ({"additional_parameters": {"N": 2}}, "additional_parameters.N=2", "hydra.launcher.nodes"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(settings, key, words):
    with pytest.raises(ConfigError) as e:
        SubmititLauncher(submitit_folder="/nowhere", **settings)
    assert str(e.value).startswith(f"hydra.launcher.{key}")
    assert words in str(e.value)
    assert str(e.value).isprintable()


def script(launcher):
    """What sbatch would read."""
    return launcher.executor()._executor._make_submission_file_text("python", "uid")


def test_the_batch_script_of_several_tasks(fake, tmp_path):
    fake(srun="true")
    settings = {"nodes": 2, "gpus_per_node": 2, "srun_args": ["--export=ALL"], "setup": ["module load cuda"]}
    text = script(SubmititLauncher(submitit_folder=str(tmp_path), **settings))
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=2", "#SBATCH --gpus-per-node=2"} < set(text.splitlines())
    # a dead task ends the job; a task that ends well does not end the first task, which still writes
    (srun,) = [line for line in text.splitlines() if line.startswith("srun")]
    assert "--kill-on-bad-exit=1 --wait=0 --export=ALL" in srun
    assert text.index("tasks start on") < text.index("module load cuda") < text.index("srun")


def test_one_task_changes_nothing_in_the_batch_script(fake, tmp_path):
    fake(srun="true")
    text = script(SubmititLauncher(submitit_folder=str(tmp_path), gpus_per_node=1, nodes=1, tasks_per_node=None))
    assert {"#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=1"} < set(text.splitlines())
    assert "kill-on-bad-exit" not in text
    assert "tasks start on" not in text


PER_RANK = "train.perturbation=per_rank"


@pytest.mark.parametrize(
    ("nodes", "words", "task", "said"),
    [
        (2, ("data.batch_size=3",), TRAIN, r"data\.batch_size=3: .*4 tasks on 2 nodes"),
        (2, ("data.batch_size=6", "train.accumulate_steps=2"), TRAIN, r"data\.batch_size=6: .*accumulate_steps=2"),
        (2, ("data.batch_size=9", PER_RANK), TRAIN, r"data\.batch_size=9: "),
        (None, (PER_RANK,), TRAIN, r"train\.perturbation=per_rank: needs several tasks"),
        (2, (), MEASURE, "one process"),
        (2, (), EVALUATE, "one process"),
    ],
)
def test_jobs_that_cannot_use_their_tasks_are_refused_before_anything_is_submitted(
    fake, tmp_path, nodes, words, task, said
):
    calls = fake(srun="true")
    launcher = SubmititLauncher(submitit_folder=str(tmp_path / "s"), nodes=nodes, tasks_per_node=nodes)
    wrong = [job(tmp_path), job(tmp_path, *words, task=task)] if task == TRAIN else [job(tmp_path, task=task)]
    for attempt in (launcher.check, lambda jobs: launcher.run(jobs, lambda ids: None)):
        with pytest.raises(ConfigError, match=said):
            attempt(wrong)
    assert calls() == []


def test_jobs_that_can_use_their_tasks(tmp_path):
    few, many = job(tmp_path, "data.batch_size=4"), job(tmp_path, "data.batch_size=10", PER_RANK)
    Tasks(2, 2).check([few, many, job(tmp_path, "data.batch_size=9")])  # shares may differ by a sample
    Tasks().check([few, job(tmp_path, task=MEASURE)])


SEVERAL = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "70001",
    "SLURM_JOB_NODELIST": "127.0.1.[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}


@pytest.fixture(name="task")
def one_task_of_a_job(monkeypatch):
    """The environment of a task; afterwards the variables of the test process are as before."""
    for name in rendezvous.VARIABLES:
        monkeypatch.setenv(name, "x")  # so that the end of the test takes back what the test sets
        monkeypatch.delenv(name)

    def begin(**more):
        for name, value in {**SEVERAL, **more}.items():
            monkeypatch.setenv(name, value)

    return begin


def test_a_task_knows_its_place(task):
    task(MASTER_PORT="1", RANK="0", WORLD_SIZE="1")  # the last three are from the shell of the submission
    assert task_number() == 3
    join_tasks()
    found = {name: os.environ[name] for name in rendezvous.VARIABLES}
    assert found == {
        "MASTER_ADDR": "127.0.1.1",
        "MASTER_PORT": str(port_of("70001", 0)),
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
    }


def test_the_tasks_of_one_node_need_no_name(task):
    task(SLURM_JOB_NODELIST="nosuchhost", SLURM_JOB_NUM_NODES="1", SLURM_RESTART_COUNT="2")
    join_tasks()
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    assert os.environ["MASTER_PORT"] == str(port_of("70001", 2))


def test_a_node_that_cannot_be_found_is_one_line(task, monkeypatch):
    def unknown(*address):
        raise socket.gaierror(-2, "Name or service not known")

    task(SLURM_JOB_NODELIST="n[1-2]")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(NoRendezvous, match=r"does not find the first node of the job, n1: "):
        join_tasks()


def test_the_only_task_of_a_job_and_a_process_without_a_job_are_alone(task, monkeypatch):
    task(SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0", RANK="1", WORLD_SIZE="2")
    join_tasks()
    assert task_number() == 0
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & os.environ.keys()
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    monkeypatch.setenv("RANK", "1")  # of torchrun
    join_tasks()
    assert task_number() == 0
    assert os.environ["RANK"] == "1"


def stopped(job):
    raise Preempted(12, 7)


def failed(job):
    raise ValueError("no such file")


@pytest.mark.parametrize(
    ("number", "work", "error"),
    [("0", stopped, Preempted), ("1", stopped, SystemExit), ("0", failed, ValueError), ("1", failed, ValueError)],
)
def test_the_log_and_the_exit_code_of_each_task(task, tmp_path, monkeypatch, capfd, number, work, error):
    task(SLURM_PROCID=number, SLURM_LOCALID="0")
    monkeypatch.setitem(sys.modules, "made_task", types.SimpleNamespace(work=work))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(error) as e:
        JobRunner()(FrozenJob("made_task:work", {}, [], tmp_path / "run", {}))
    if error is SystemExit:
        assert e.value.code == 0  # another code makes srun end the first task, which still has to requeue the job
    for handler in logging.getLogger().handlers:
        handler.close()
    said = "preempted by SIGUSR2 after step 7" if work is stopped else "ValueError: no such file"
    assert said in capfd.readouterr().err
    assert (tmp_path / "run" / "run.log").exists() == (number == "0")


def test_two_jobs_on_one_node_and_two_starts_of_one_job_have_ports_of_their_own():
    ports = {port_of(str(job), restart) for job in range(70000, 72000) for restart in range(3)}
    assert len(ports) == 6000
    assert min(ports) >= 20000
    assert max(port_of(str(job), 0) for job in range(20000)) < 32768


def test_a_job_does_not_inherit_the_place_of_the_process_that_submits(task):
    task(RANK="1", TORCHELASTIC_RUN_ID="x")
    with outside_of_a_job():
        assert not {"RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"} & os.environ.keys()
    assert os.environ["RANK"] == "1"
