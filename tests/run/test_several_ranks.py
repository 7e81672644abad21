"""A run by two processes: one writer, common ends, and what happens when one or all of them are killed."""

import json
import os
import signal
import time

import pytest
import torch
from support.processes import CONTEXT, FileFunction, wait_for
from support.ranked import SMALL, free_port
from support.runs import compose_tiny

from fsamlab import run
from fsamlab.ranks import Ranks, place
from fsamlab.rundir import checkpoint

EVERY = ("train.epochs=12", "train.checkpoint_every_steps=4", "train.perturbation=per_rank", "optimizer=fsam")
SECONDS = 15  # that a rank waits for another rank


def one_rank(rank, size, port, config, directory):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with run.joined(config.train) as ranks:
        run.run(config, directory, ranks=ranks)


RANK = FileFunction(__file__, "one_rank")


class Pair:
    """Two processes of one run."""

    def __init__(self, directory, *words):
        config = compose_tiny(*SMALL, *EVERY, f"train.rank_timeout_minutes={SECONDS / 60}", *words)
        self.directory, port = directory, free_port()
        directory.mkdir(exist_ok=True)
        self.processes = [CONTEXT.Process(target=RANK, args=(k, 2, port, config, directory)) for k in range(2)]
        for process in self.processes:
            process.start()

    def under_way(self):
        """Wait until a checkpoint is written, and the training has gone on."""
        wait_for(lambda: self.rows() > 3, 120)
        return self

    def rows(self):
        path = self.directory / "metrics.jsonl"
        return len(path.read_text().splitlines()) if (self.directory / "checkpoints" / "last.pt").exists() else 0

    def kill(self, *numbers, signum=signal.SIGKILL):
        for k in numbers:
            os.kill(self.processes[k].pid, signum)

    def end(self):
        """Return the exit codes."""
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes]


def made(pair):
    """Return weights and rows of a finished run."""
    assert pair.end() == [0, 0]
    rows = [json.loads(line) for line in (pair.directory / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for key in ("time", "time/step_ms"):
            row.pop(key)
    return checkpoint.load(pair.directory / "checkpoints" / "last.pt")["model"], rows


def status(pair):
    return json.loads((pair.directory / "status.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return made(Pair(tmp_path_factory.mktemp("whole") / "run"))


def assert_goes_on(pair, undisturbed):
    weights, rows = made(Pair(pair.directory))
    assert rows == undisturbed[1]
    assert all(torch.equal(weights[k], undisturbed[0][k]) for k in weights)


@pytest.mark.long
def test_both_are_killed(tmp_path, undisturbed):
    pair = Pair(tmp_path / "run").under_way()
    pair.kill(0, 1)
    assert pair.end() == [-signal.SIGKILL] * 2
    assert_goes_on(pair, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed(tmp_path, victim):
    pair = Pair(tmp_path / "run").under_way()
    pair.kill(victim)
    codes = pair.end()
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    if victim == 1:
        assert status(pair)["status"] == "failed"
        assert status(pair)["exception"].startswith("RankLost: rank 0 of 2 lost the others")


@pytest.mark.long
def test_one_hangs(tmp_path):
    pair = Pair(tmp_path / "run").under_way()
    pair.kill(1, signum=signal.SIGSTOP)
    start = time.monotonic()
    pair.processes[0].join(120)
    assert pair.processes[0].exitcode == 1
    assert time.monotonic() - start > SECONDS / 2
    assert status(pair)["exception"].startswith("RankLost")
    pair.kill(1)
    pair.end()


@pytest.mark.long
def test_a_signal_to_one_rank_stops_both_after_the_same_step(tmp_path, undisturbed):
    pair = Pair(tmp_path / "run").under_way()
    pair.kill(1, signum=signal.SIGTERM)
    assert pair.end() == [1, 1]
    assert status(pair)["status"] == "preempted"
    assert_goes_on(pair, undisturbed)


@pytest.mark.long
def test_rank_0_cannot_start(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "metrics.jsonl").mkdir()  # rank 0 alone opens the file
    assert Pair(directory).end() == [1, 1]


def test_places():
    variables = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert place({}) == place({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) == place({"LOCAL_RANK": "3"})
    assert place({}).size == 1
    assert (place(variables).rank, place(variables).size, place(variables).local_rank) == (1, 4, 0)
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_LOCALID": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert (place(slurm).rank, place(slurm).size, place(slurm).local_rank) == (2, 3, 1)
    for wrong in ({"RANK": "4"}, {"RANK": "one"}, {"RANK": "-1"}, {"WORLD_SIZE": ""}):
        with pytest.raises(run.ConfigError, match=next(iter(wrong))):
            place({**variables, **wrong})
    with pytest.raises(run.ConfigError, match="MASTER_ADDR"):
        place({"RANK": "0", "WORLD_SIZE": "2"})


def test_one_rank_gets_back_what_it_gives():
    ranks = Ranks.alone(torch.device("cpu"))
    x = torch.ones(2)
    assert ranks.sum(x) is x
    assert ranks.max([3, 4]) == [3, 4]
    assert ranks.broadcast("a") == "a"
    assert ranks.gather("a") == ["a"]
    assert ranks.on_main(lambda stopping: stopping(), lambda: True) is True
    assert not ranks.any(False)
