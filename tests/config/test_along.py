"""Words that come along with a value of a sweep: each method at its own radius in one grid."""

import pytest

from fsamlab.config import ConfigError
from fsamlab.sweep.resubmit import check
from fsamlab.terminal.errors import SweepFailed

RADII = "+hydra.sweeper.along.optimizer={sam: {optimizer.rho: 0.4}, fsam: {optimizer.rho: 0.8, optimizer.lmbda: 0.6}}"
TINY = ("data=synthetic", "name=along", "optimizer=sgd,sam,fsam")


def found(*words):
    """Return the words of every job, without those that all jobs share."""
    _, plans, _ = check([*TINY, *words])
    return [{o for o in plan.overrides if o not in TINY} for plan in plans]


def test_each_value_brings_its_words():
    assert found(RADII) == [
        {"optimizer=sgd"},
        {"optimizer=sam", "optimizer.rho=0.4"},
        {"optimizer=fsam", "optimizer.rho=0.8", "optimizer.lmbda=0.6"},
    ]


def test_what_is_said_wins():
    sam, fsam = found(RADII, "optimizer=sam,fsam", "optimizer.rho=0.1")
    assert sam == {"optimizer=sam", "optimizer.rho=0.1"}
    assert fsam == {"optimizer=fsam", "optimizer.rho=0.1", "optimizer.lmbda=0.6"}
    grids = "+hydra.sweeper.grids={one: {optimizer.rho: 0.3}, two: {seed: 1}}"
    assert found(RADII, grids, "optimizer=sam") == [
        {"optimizer=sam", "optimizer.rho=0.3"},
        {"optimizer=sam", "optimizer.rho=0.4", "seed=1"},
    ]
    assert {"optimizer=fsam"} in found(RADII, "hydra.sweeper.along.optimizer.fsam=null")


def test_several_values_span_a_grid():
    jobs = found(
        "+hydra.sweeper.along={optimizer: {sam: {optimizer.rho: '0.1,0.2'}}, seed: {1: {train.epochs: 3}}}", "seed=0,1"
    )
    assert len(jobs) == 2 * (1 + 2 + 1)
    assert {"optimizer=sam", "seed=1", "optimizer.rho=0.2", "train.epochs=3"} in jobs
    assert {"optimizer=sgd", "seed=0"} in jobs


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("hydra.sweeper.along=3", "hydra.sweeper.along=3: must be keys with values"),
        ("+hydra.sweeper.along.optimizer=sam", "hydra.sweeper.along.optimizer=sam: must be keys with values"),
        (
            "+hydra.sweeper.along.optimizer={sam: 0.4}",
            "hydra.sweeper.along.optimizer.sam=0.4: must be keys with values",
        ),
        ("+hydra.sweeper.along.optimizer={smam: {seed: 1}}", r"hydra.sweeper.along.optimizer=smam: is no option.*sam"),
        ("+hydra.sweeper.along.optimizer={sam: {optimizer.rhoo: 1}}", "rhoo"),
    ],
)
def test_bad_entries_are_one_line(word, line):
    with pytest.raises((ConfigError, SweepFailed), match=line):
        found(word)
