"""Sweeps of several grids: methods with different parameters in one sweep file."""

import pytest

from fsamlab.config import ConfigError
from fsamlab.config import compose as composing
from fsamlab.sweep.resubmit import check

GRIDS = (
    "+hydra.sweeper.grids.controls={optimizer:'sgd,sgd_2x'}",
    "+hydra.sweeper.grids.radii={optimizer:'sam,fsam',optimizer.rho:'0.1,0.2'}",
)
TINY = ("data=synthetic", "name=grids", "+hydra.sweeper.params.seed='0,1'")


def overrides(*words):
    """Return the overrides of every job, without the words that all jobs share."""
    _, plans, _ = check([*TINY, *words])
    return [[o for o in plan.overrides if o not in TINY] for plan in plans]


def test_a_sweep_has_the_jobs_of_all_its_grids_with_the_shared_parameters():
    found = overrides(*GRIDS)
    assert len(found) == len({*map(tuple, found)}) == 2 * 2 + 2 * 2 * 2
    assert ["seed=1", "optimizer=sgd"] in found
    assert ["seed=0", "optimizer=fsam", "optimizer.rho=0.2"] in found
    assert not any("optimizer=sgd" in job and len(job) > 2 for job in found)


def test_the_command_line_wins_in_each_grid_and_leaves_grids_out():
    for without in ("hydra.sweeper.grids.radii=null", "~hydra.sweeper.grids.radii"):
        assert overrides(*GRIDS, without, "seed=3") == [["seed=3", "optimizer=sgd"], ["seed=3", "optimizer=sgd_2x"]]
    of_grid = overrides(*GRIDS, "+hydra.sweeper.grids.radii.seed=5")  # the key of a grid wins over the shared one
    assert [job[0] for job in of_grid if "optimizer=sam" in job] == ["seed=5", "seed=5"]
    assert sum(job[0] == "seed=1" for job in of_grid) == 2
    assert overrides(*GRIDS, "~hydra.sweeper.grids", "optimizer=sam", "seed=4") == [["seed=4", "optimizer=sam"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweeper.grids=sam"], "hydra.sweeper.grids=sam: must be names with grids"),
        (["+hydra.sweeper.grids.radii=3"], "hydra.sweeper.grids.radii=3: must be keys with their values"),
        (["+hydra.sweeper.grids.radii=null"], "leaves no job: every grid is null"),
    ],
)
def test_a_value_that_is_no_grid_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        overrides(*words)


def test_grids_together_may_not_have_more_jobs_than_a_sweep_may(monkeypatch):
    monkeypatch.setattr(composing, "MAX_JOBS", 8)
    with pytest.raises(ConfigError, match=r"hydra.sweeper.grids=controls,radii: gives the sweep more than 8 jobs"):
        overrides(*GRIDS)
