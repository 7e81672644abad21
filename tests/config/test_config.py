from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import compose_tiny

from fsamlab.config import (
    SCHEMAS,
    AugmentConfig,
    ConfigError,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
    did_you_mean,
    from_plain,
    in_range,
    to_plain,
)
from fsamlab.config.identity import config_hash, differences, run_directory, run_id
from fsamlab.config.project import PROJECT_ROOT

FSAM = {
    "name": "fsam",
    "ascent": "batch",
    "component": "subtract",
    "reference": "ema",
    "rho": 0.2,
    "sigma": 1.0,
    "lmbda": 0.9,
    "order": "official",
    "ema_init": "first_gradient",
}


def fsam(**changes):
    return OptimizerConfig(**{**FSAM, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rho": -0.1}, "optimizer.rho=-0.1: must be finite and >= 0"),
        ({"rho": float("nan")}, "optimizer.rho=nan"),
        ({"rho": float("inf")}, "optimizer.rho=inf"),
        ({"lr": float("nan")}, "optimizer.lr=nan"),
        ({"lmbda": 1.0}, "optimizer.lmbda=1.0: must be finite and >= 0 and < 1"),
        ({"sigma": float("nan")}, "optimizer.sigma=nan"),
        ({"order": "offical"}, "did you mean official"),
        ({"order": "paper", "ema_init": "zero", "sigma": 10.0}, "optimizer.sigma=10.0"),
        ({"order": "paper"}, "optimizer.ema_init=first_gradient"),
        ({"order": "paper", "ema_init": "zero_debiased"}, "optimizer.ema_init=zero_debiased"),
        ({"sigma": None}, "optimizer.sigma=null: has to be set"),
        ({"eta": 0.01}, "optimizer.eta=0.01: has no effect"),
        ({"component": "all"}, "optimizer.reference=ema"),
        ({"reference": None}, "optimizer.reference=null"),
        ({"ascent": "none"}, "optimizer.rho=0.2"),
        ({"ascent": "gaussian"}, "optimizer.reference=ema"),
        ({"betas": [0.9]}, "optimizer.betas"),
        ({"base": "adam"}, "did you mean adamw"),
    ],
)
def test_impossible_values_are_one_line(changes, words):
    with pytest.raises(ConfigError) as e:
        fsam(**changes)
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_possible_values_pass():
    fsam(sigma=0.0)
    fsam(sigma=9.99, order="paper", ema_init="zero")
    fsam(sigma=0.5, order="paper")


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (TrainConfig, {"epochs": 0}),
        (TrainConfig, {"precision": "fp17"}),
        (TrainConfig, {"label_smoothing": 1.0}),
        (TrainConfig, {"warmup_epochs": 61.0}),
        (DataConfig, {"name": "digits", "label_noise": 1.2}),
        (DataConfig, {"name": "digits", "batch_size": 0}),
        (DataConfig, {"name": "digits", "mean": [0.1, 0.2]}),
        (AugmentConfig, {"cutout_prob": -0.1}),
    ],
)
def test_other_groups_refuse_too(cls, values):
    with pytest.raises(ConfigError):
        cls(**values)


@given(st.floats())
def test_in_range_passes_exactly_the_closed_interval(x):
    inside = 0 <= x <= 1
    if inside:
        in_range("k", x, 0, 1)
    else:
        with pytest.raises(ConfigError):
            in_range("k", x, 0, 1)


def test_did_you_mean():
    assert did_you_mean("rhoo", ["rho", "lr"]) == " (did you mean rho?)"
    assert did_you_mean("zzz", ["rho", "lr"]) == ""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["model.name=resnet_18"],
            r"model.name=resnet_18: must be one of small_cnn, .* \(did you mean resnet18\?\), a timm",
        ),
        (
            ["data.name=cifr10"],
            r"data.name=cifr10: must be one of digits, .* \(did you mean cifar10\?\), or set data.imp",
        ),
        (["data=synthetic", "data.name=digits"], "data.name=digits: has other keys; choose .* with data=digits"),
        (["data.name=imagenet"], "data.name=imagenet: has other keys; choose the data set with data=imagenet"),
    ],
)
def test_a_name_that_nothing_has_is_refused_before_anything_runs(composed, words, line):
    with pytest.raises(ConfigError, match=line):
        composed(*words)


def test_names_of_ones_own_and_of_timm_are_free(composed):
    assert composed("model=timm", "model.name=anything").model.name == "anything"
    own = composed("model.import_path=a:b", "model.name=mine", "data.import_path=a:b", "data.name=theirs")
    assert (own.model.name, own.data.name) == ("mine", "theirs")


def test_the_names_are_those_that_are_built():
    from fsamlab.config.data import EVALUATION_ONLY
    from fsamlab.config.model import OWN_MODELS
    from fsamlab.data import DATASETS
    from fsamlab.models import MODELS

    assert list(MODELS) == list(OWN_MODELS)
    assert {name for schema in SCHEMAS["data"].values() for name in schema.NAMES} == {*DATASETS, *EVALUATION_ONLY}


def test_a_name_on_record_is_read(composed):
    plain = to_plain(composed())
    plain["model"]["name"] = "of_a_former_version"
    assert from_plain(plain).model.name == "of_a_former_version"


def test_every_option_composes_and_bears_its_file_name(composed):
    for group in ("optimizer", "model", "data", "diagnostics", "tracker"):
        for path in sorted((PROJECT_ROOT / "conf" / group).glob("*.yaml")):
            if path.stem in ("cifar10c", "cifar100c", "imagenet_c"):
                continue  # for evaluation alone: tests/command/test_evaluate.py
            with_it = {"mlp": ["data=diabetes"], "diabetes": ["model=mlp"]}.get(path.stem, [])
            config = composed(f"{group}={path.stem}", *with_it)
            if (group, path.stem) not in (("model", "timm"), ("model", "deit_s16")):  # there the name is timm's
                assert getattr(config, group).name == path.stem
    for path in sorted((PROJECT_ROOT / "conf" / "experiment").glob("*.yaml")):
        composed(f"experiment={path.stem}")


def test_identity_covers_what_changes_weights_only(composed):
    base = config_hash(composed())
    for neutral in ("seed=5", "tracker=none", "name=x", "data.num_workers=2", "train.num_threads=1", "diagnostics=off"):
        assert config_hash(composed(neutral)) == base, neutral
    for semantic in ("optimizer.rho=0.3", "train.precision=bf16", "model.checkpoint=a.pt", "data.augment.flip=true"):
        assert config_hash(composed(semantic)) != base, semantic


def test_root_of_a_named_set_is_neutral_but_of_an_image_folder_is_content(composed):
    assert config_hash(composed("data.root=/a")) == config_hash(composed("data.root=/b"))
    folder = "data=image_folder"
    assert config_hash(composed(folder, "data.root=/a")) != config_hash(composed(folder, "data.root=/b"))


def test_identity_ignores_what_equals_the_default(composed):
    explicit = composed("data.augment.flip=false", "optimizer.every=1")
    assert config_hash(explicit) == config_hash(composed())
    assert "data.augment.flip" not in differences(explicit)
    assert differences(composed("optimizer.every=2"))["optimizer.every"] == 2


def test_run_directory_is_anchored_at_the_project(composed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = composed("name=study", "seed=3")
    assert run_directory(config) == PROJECT_ROOT / "runs" / "study" / run_id(config)
    assert run_id(config).startswith("fsam-small_cnn-digits-s3-")
    assert run_directory(composed("runs_dir=/scratch/r")).parent == Path("/scratch/r/default")


def test_no_torch_below_the_login_node():
    import subprocess
    import sys

    code = (
        "import sys; from hydra import compose, initialize_config_dir; from fsamlab.config.compose import register\n"
        "from fsamlab.config import typed; from fsamlab.config.identity import PROJECT_ROOT, run_id\n"
        "import fsamlab.command.help; import hydra_plugins.fsamlab_plugins; register()\n"
        "initialize_config_dir(config_dir=str(PROJECT_ROOT / 'conf'), version_base='1.3').__enter__()\n"
        "print(run_id(typed(compose('config'))), fsamlab.command.help.page()[:7]); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_that_contradict_each_other_are_refused(composed):
    with pytest.raises(ConfigError, match="accumulate_mode=per_micro_batch"):
        composed("optimizer=sam_db", "train.accumulate_mode=per_micro_batch")
    with pytest.raises(ConfigError, match="save_best"):
        composed("data=cifar10", "train.save_best=true")


def test_the_objective_changes_no_run_id_and_needs_validation_data():
    before = compose_tiny()
    after = compose_tiny("objective=final/val/loss")
    assert (after.objective, run_id(after)) == ("final/val/loss", run_id(before))
    with pytest.raises(ConfigError, match=r"objective=test/acc1: must be a metric of the validation data"):
        compose_tiny("objective=test/acc1")
    with pytest.raises(ConfigError, match=r"data.val_size=0: leaves no validation data"):
        compose_tiny("objective=val/acc1", "data.val_size=0")
    assert compose_tiny("data.val_size=0").objective is None
