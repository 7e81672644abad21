"""Words that come along with a value of a sweep: each method at its own radius in one grid."""

import pytest
from omegaconf import OmegaConf

from fsamlab.command.main import main as fsamlab
from fsamlab.config import ConfigError
from fsamlab.config.compose import composing, jobs_of
from fsamlab.sweep.resubmit import check

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


def jobs(sweeper, *words):
    """Return the words of every job that a section hydra.sweeper and a command line ask for; nothing is composed."""
    with composing() as context:
        return jobs_of(context.config_loader, OmegaConf.create(sweeper), words)


def test_a_value_counts_and_not_its_spelling():
    flip, noise = {True: {"objective": None}}, {0.0: {"seed": 3}, 0.40: {"seed": 4}, "1e-1": {"seed": 5}}
    along = {"along": {"data.augment.flip": flip, "data.label_noise": noise, "optimizer": {"sam": {"train.epochs": 3}}}}
    words = ("data.label_noise=0,4e-1,0.1", "data.augment.flip=true", "optimizer='sam'")
    none, some, few = jobs(along, *words)
    assert none[3:] == ["objective=null", "seed=3", "train.epochs=3"]
    assert (some[4], few[4]) == ("seed=4", "seed=5")
    assert jobs(along, "data.augment.flip=1", "data.label_noise='0.4'", "optimizer=sgd")[0][3:] == ["seed=4"]


def test_words_of_two_entries_may_agree():
    entries = {"optimizer": {"sam": {"seed": 1}}, "data.label_noise": {0.4: {"seed": 1, "train.epochs": 3}}}
    ((*_, first, second),) = jobs({"along": entries}, "optimizer=sam", "data.label_noise=0.4")
    assert (first, second) == ("seed=1", "train.epochs=3")
    entries["data.label_noise"][0.4]["seed"] = 2
    assert len(jobs({"along": entries}, "optimizer=sam", "data.label_noise=0.4", "seed=0")) == 1
    with pytest.raises(ConfigError, match=r"=seed=2: and seed=1 of hydra.sweeper.along.optimizer.sam hold for one job"):
        jobs({"along": entries}, "optimizer=sam", "data.label_noise=0.4")


@pytest.mark.parametrize(
    ("along", "line"),
    [
        (3, "=3: must be keys with values"),
        ({"optimizer": "sam"}, ".optimizer=sam: must be keys with values"),
        ({"optimizer": {"sam": 0.4}}, ".optimizer.sam=0.4: must be keys with values"),
        ({"optimizer": {"smam": {"seed": 1}}}, ".optimizer=smam: is no option (did you mean sam?)"),
        ({"optimizer": {3: {"seed": 1}}}, ".optimizer=3: is no option; optimizer has adamw, "),
        ({"experiment": {"digit_noise": {"seed": 1}}}, "digit_noise: is no option (did you mean digits_noise?)"),
        ({"optimzer": {"sam": {"seed": 1}}}, "no job sets optimzer (did you mean optimizer?)"),
        ({"model.width": {4: {"seed": 1}}}, "no job sets model.width; set it in params, in grids or on the command"),
        ({"optimizer": {"sam": {"optimizer": {"rho": 1}}}}, ".sam.optimizer={'rho': 1}: must be a value, or values"),
        ({"optimizer": {"sam": {"optimizer": "fsam"}}}, ".optimizer.sam=optimizer=fsam: sets optimizer itself"),
        ({"optimizer": {"sam": {3: 1}}}, ".optimizer.sam=3=1: cannot be read"),
        ({"optimizer": {"sam": {"hydra.launcher.num_jobs": 1}}}, "is a setting of the launch"),
        ({"optimizer": {"sam": {"optimizer.rho": "log(0.1,1)"}}}, ".optimizer.rho=log(0.1,1): is a range to search"),
    ],
)
def test_bad_entries_are_one_line(along, line):
    with pytest.raises(ConfigError) as error:
        jobs({"along": along}, "optimizer=sgd,sam", "experiment=digits_noise")
    assert str(error.value).startswith("hydra.sweeper.along")
    assert line in str(error.value)


def test_the_command_line_says_what_is_wrong_in_one_line(capsys):
    for words, line in (
        (RADII.replace("rho", "rhoo"), "optimizer.rhoo: unknown key (did you mean rho?)"),
        (RADII.removeprefix("+"), "hydra.sweeper.along.optimizer: is not there yet; a new key has a + in front"),
        ("hydra.sweeper.params=3", "hydra.sweeper.params=3: must be keys with their values"),
    ):
        assert fsamlab(["check", *TINY[:2], "optimizer=sam", words]) == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert line in said
