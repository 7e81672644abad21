"""Arrays of a large sweep: together they run no more than `array_parallelism` jobs at once."""

import pytest

from fsamlab.config import ConfigError
from fsamlab.sweep import slurm
from fsamlab.sweep.arrays import arrays_of
from fsamlab.sweep.slurm import SubmititLauncher


def most_at_once(parts):
    """The most jobs that can run together: an array that waits for another one never runs beside it."""
    chains = {}
    for number, part in enumerate(parts):
        chains[number] = number if part.after is None else chains[part.after]
    return sum(max(p.at_once for n, p in enumerate(parts) if chains[n] == chain) for chain in set(chains.values()))


@pytest.mark.parametrize(
    ("num_jobs", "max_size", "at_once"),
    [(2000, 1000, 64), (2000, 1000, 1), (1001, 1000, 64), (5000, 1000, 3), (7, 2, 2), (10, 3, 5), (1, 1000, 64)],
)
def test_the_bound_holds_over_all_arrays(num_jobs, max_size, at_once):
    parts = arrays_of(num_jobs, max_size, at_once)
    assert most_at_once(parts) == at_once
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == num_jobs
    assert max(part.stop - part.start for part in parts) <= max_size
    assert min(part.at_once for part in parts) >= 1


class Executor:
    """Counts what submitit is given for each array."""

    def __init__(self):
        self.parameters, self.arrays = {}, []

    def update_parameters(self, **parameters):
        self.parameters.update(parameters)

    def map_array(self, runner, jobs):
        self.arrays.append((len(jobs), dict(self.parameters)))

        class Handle:
            job_id = f"{100 + len(self.arrays)}_0"

        return [Handle() for _ in jobs]


def submit(monkeypatch, tmp_path, num_jobs, **settings):
    launcher = SubmititLauncher(submitit_folder=str(tmp_path / ".submitit" / "%j"), **settings)
    executor = Executor()
    monkeypatch.setattr(launcher, "executor", lambda: executor)
    launcher._submit([None] * num_jobs, [], lambda ids: None)
    return executor.arrays


def test_two_thousand_jobs_share_what_one_array_may(monkeypatch, tmp_path):
    arrays = submit(monkeypatch, tmp_path, 2000, array_parallelism=64)
    assert [(n, p["slurm_array_parallelism"]) for n, p in arrays] == [(1000, 32), (1000, 32)]
    assert [p["slurm_additional_parameters"] for _, p in arrays] == [{"requeue": True}] * 2


def test_more_arrays_than_jobs_at_once_wait_for_one_another(monkeypatch, tmp_path):
    flags = {"dependency": "afterok:5"}
    arrays = submit(
        monkeypatch, tmp_path, 6, array_parallelism=2, max_array_size=2, additional_parameters={"mail-user": "me"}
    )
    assert [p["slurm_array_parallelism"] for _, p in arrays] == [1, 1, 1]
    extra = [p["slurm_additional_parameters"].get("dependency") for _, p in arrays]
    assert extra == [None, None, "afterany:101"]
    assert all(p["slurm_additional_parameters"]["mail-user"] == "me" for _, p in arrays)
    arrays = submit(monkeypatch, tmp_path, 6, array_parallelism=2, max_array_size=2, additional_parameters=dict(flags))
    assert arrays[2][1]["slurm_additional_parameters"]["dependency"] == "afterok:5,afterany:101"
    either = {"dependency": "afterok:5?afterok:6"}
    with pytest.raises(ConfigError, match="raise array_parallelism"):
        submit(monkeypatch, tmp_path, 6, array_parallelism=2, max_array_size=2, additional_parameters=either)


def test_one_array_is_submitted_as_it_was(monkeypatch, tmp_path):
    assert submit(monkeypatch, tmp_path, 1000, array_parallelism=64) == [(1000, {})]


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [({}, {}, "here"), ({"clusters": "far"}, {}, "far"), ({}, {"SBATCH_CLUSTERS": "far"}, "far")],
)
def test_the_cluster_that_sbatch_chooses(monkeypatch, tmp_path, flags, environment, expected):
    monkeypatch.setattr(slurm, "local_cluster", lambda: "here")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    launcher = SubmititLauncher(submitit_folder=str(tmp_path), additional_parameters=flags)
    assert launcher.cluster_name() == expected
    several = SubmititLauncher(submitit_folder=str(tmp_path), additional_parameters={"clusters": "a,b"})
    with pytest.raises(ConfigError, match="the name of one cluster"):
        several.cluster_name()
