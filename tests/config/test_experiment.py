"""The option file of a configuration composes to this configuration: over the options and sweeps of conf/."""

from dataclasses import replace

import pytest
import yaml
from hydra import compose
from support.marks import long_but
from support.runs import ROOT, compose_bare
from support.sweeps import settings

from fsamlab.config import ConfigError, to_plain, typed
from fsamlab.config.compose import composing
from fsamlab.config.experiment import check, experiment_of
from fsamlab.config.identity import run_id


def options(group):
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def composed(text, folder, *words):
    """Compose the file as a user would, who has put it into conf/experiment."""
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "mine.yaml").write_text(text)
    with composing():
        return typed(compose("config", overrides=[f"hydra.searchpath=['file://{folder}']", "experiment=mine", *words]))


def same(config, folder):
    found = experiment_of(config)
    again = composed(found.text(["a comment"]), folder, f"seed={config.seed}")
    assert run_id(again) == run_id(config)
    wanted, got = to_plain(config), to_plain(again)
    for key in ("name", "tracker", "runs_dir"):
        del wanted[key], got[key]
    assert wanted == got
    return found


@pytest.mark.parametrize("option", long_but(["fsam", "gsam"], options("optimizer")))
def test_every_optimizer(option, tmp_path):
    words = ["optimizer.lr=0.0123", "optimizer.weight_decay=1e-7", "seed=3", "name=s", "train.epochs=7"]
    found = same(compose_bare(f"optimizer={option}", *words), tmp_path)
    assert found.options["optimizer"] == option
    assert found.changes == {
        "optimizer": {"lr": 0.0123, "weight_decay": 1e-7},
        "train": {"epochs": 7, "progress": False},
    }


DATA = ["cifar10", "cifar100", "diabetes", "digits", "fashion_mnist", "imagenet", "oxford_pets", "synthetic"]


@pytest.mark.parametrize("option", long_but(["diabetes"], DATA))
def test_every_kind_of_data(option, tmp_path):
    model = "mlp" if option == "diabetes" else "resnet18"
    found = same(compose_bare(f"data={option}", f"model={model}", "data.batch_size=17", "diagnostics=off"), tmp_path)
    assert found.options["data"] == option
    assert found.options["model"] == model
    assert found.options["diagnostics"] == "off"
    assert found.changes["data"] == {"batch_size": 17}


@pytest.mark.long
@pytest.mark.parametrize("option", [o for o in options("model") if o != "mlp"])
def test_every_network(option, tmp_path):
    assert same(compose_bare(f"model={option}", "data=cifar10", "train=cifar"), tmp_path).options["model"] == option


@pytest.mark.parametrize("sweep", long_but(["quickstart"], options("sweeps")))
def test_settings_of_every_sweep(sweep, tmp_path):
    found = settings(sweep)
    for config in found[:1] if sweep == "quickstart" else found[:: max(1, len(found) // 8)]:
        same(config, tmp_path)


def test_values_that_yaml_reads_in_other_ways(tmp_path):
    words = ("optimizer.base=torch.optim:SGD", "optimizer.base_options={momentum: 0.5, maximize: false}")
    values = ("train.ema_decay=0.5", "data.augment.cutmix=1", "task.loss=null")
    found = same(compose_bare("optimizer=sam", *words, *values, "model.width=null", "model=resnet18"), tmp_path)
    assert yaml.safe_load(found.text([]))["optimizer"]["base_options"] == {"momentum": 0.5, "maximize": False}


def test_name_and_comments_stand_in_the_file(tmp_path):
    found = experiment_of(compose_bare("optimizer.rho=0.05"))
    text = found.text(["where it comes from"], "mine")
    assert text.splitlines()[:3] == ["# @package _global_", "# where it comes from", "defaults:"]
    assert composed(text, tmp_path).name == "mine"
    assert composed(text, tmp_path, "name=other").name == "other"


def test_a_file_that_gives_another_setting_is_refused():
    config = compose_bare("optimizer.rho=0.05")
    wrong = replace(experiment_of(config), changes={})
    with pytest.raises(ConfigError, match=r"experiment=.*optimizer.rho"):
        check(wrong, config)


def test_a_key_that_only_the_file_has_is_noticed():
    base = ("optimizer=sam", "optimizer.base=torch.optim:SGD")
    more = experiment_of(compose_bare(*base, "optimizer.base_options={momentum: 0.5, dampening: 0.1}"))
    with pytest.raises(ConfigError, match=r"experiment=optimizer.base_options.dampening: no option file"):
        check(more, compose_bare(*base, "optimizer.base_options={momentum: 0.5}"))
