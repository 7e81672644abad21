"""A run that pauses after an epoch, and goes on later: the bits of an undisturbed run."""

import pickle
from unittest import mock

import pytest
import torch
from support.runs import compose_tiny

from fsamlab.config import to_plain
from fsamlab.ranks import Ranks
from fsamlab.run import run, run_frozen
from fsamlab.run.follow import Start, follow
from fsamlab.rundir.frozen_job import TRAIN, FrozenJob
from fsamlab.rundir.reading import read_status, read_summary
from fsamlab.rundir.rows import read_rows
from fsamlab.sweep.plan import JobPlan
from fsamlab.train.signals import SignalFlag
from fsamlab.train.trainer import Trainer

WORDS = ("optimizer=fsam", "train.epochs=3", "train.log_every_steps=1", "data.num_samples=288", "diagnostics=off")


def timeless(directory):
    return [{k: v for k, v in row.items() if not k.startswith("time")} for row in read_rows(directory)]


def numbers(directory):
    return {k: v for k, v in read_summary(directory).items() if "seconds" not in k and "_ms" not in k}


def weights(directory):
    return torch.load(directory / "checkpoints" / "last.pt", weights_only=True)["model"]


def test_a_paused_run_goes_on_to_the_bits_of_an_undisturbed_one(tmp_path):
    config = compose_tiny(*WORDS)
    run(config, tmp_path / "whole")
    place = tmp_path / "paused"
    assert run(config, place, until=1) == {}
    status = read_status(place)
    assert (status["status"], status["epoch"], status["last_step"]) == ("paused", 1, 3 * status["step"])
    assert read_summary(place) == {}
    run(config, place, until=1)  # as when a job that has paused its run is started again
    assert timeless(place) == timeless(tmp_path / "whole")[: status["step"]]
    run(config, place)
    assert read_status(place)["status"] == "finished"
    assert timeless(place) == timeless(tmp_path / "whole")
    assert numbers(place) == numbers(tmp_path / "whole")
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[key]) for key, value in weights(place).items())


@pytest.mark.parametrize("until", [3, 4])
def test_a_pause_at_or_after_the_end_is_the_end(tmp_path, until):
    assert run(compose_tiny(*WORDS), tmp_path / "r", until=until)["cost/epochs"] == 3
    assert read_status(tmp_path / "r")["status"] == "finished"


def test_a_run_that_starts_over_does_so_once_and_not_after_each_pause(tmp_path):
    config = compose_tiny(*WORDS, "force=true")
    run(config, tmp_path / "r", until=1)
    run(config, tmp_path / "r", until=2)
    assert read_status(tmp_path / "r")["resumed_at"] > 0


def test_a_frozen_job_pauses_where_its_plan_says(tmp_path):
    config = compose_tiny(*WORDS)
    plan = JobPlan.of(config, [], tmp_path / "r")
    assert plan.freeze({}).until is None
    directory = tmp_path / plan.run_id
    job = FrozenJob(TRAIN, plan.config, [], directory, {}, until=1)
    run_frozen(pickle.loads(pickle.dumps(job)))
    assert read_status(directory)["status"] == "paused"


def test_a_job_that_was_pickled_by_an_earlier_version_trains_to_the_end(tmp_path):
    job = FrozenJob(TRAIN, {}, [], tmp_path, {}, until=1)
    del job.__dict__["until"]
    assert pickle.loads(pickle.dumps(job)).until is None


def test_the_other_ranks_pause_with_rank_0():
    config, ranks, ends = compose_tiny(*WORDS), Ranks.alone(torch.device("cpu")), []
    start, fit = Start(True, to_plain(config), None, until=1), Trainer.fit

    def seen(trainer, *arguments):
        fit(trainer, *arguments)
        ends.append(trainer.epoch)

    with mock.patch.object(ranks, "broadcast", return_value=start), mock.patch.object(Trainer, "fit", seen):
        follow(config, ranks, SignalFlag())
    assert ends == [1]
