from pathlib import Path

import pytest
import torch

from fsamlab.config import AugmentConfig, ConfigError
from fsamlab.config.data import EVALUATION_ONLY, TABLES
from fsamlab.data import DATASETS, build_data

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"


def test_every_data_set_has_its_file():
    assert {p.stem for p in CONF.glob("*.yaml")} == {*DATASETS, *EVALUATION_ONLY}


@pytest.mark.parametrize("name", DATASETS)
def test_file_composes_and_bears_its_name(name, composed):
    model = ["model=mlp"] if name in TABLES else []
    assert composed(f"data={name}", *model).data.name == name


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_recipe(name, composed):
    data = composed(f"data={name}").data
    assert (data.mean, data.std) == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    assert data.augment == AugmentConfig(crop_padding=4, flip=True, cutout=16, cutout_prob=0.5)
    assert (data.batch_size, data.val_size, data.label_noise) == (128, 0, 0.0)


@pytest.mark.parametrize(("name", "sizes"), [("digits", (1000, 300, 497)), ("synthetic", (320, 64, 128))])
def test_sizes_said_in_the_file(name, sizes, composed):
    facts = build_data(composed(f"data={name}").data, 0, torch.device("cpu"), Path("/nonexistent")).facts
    assert (facts["num_train"], facts["num_val"], facts["num_test"]) == sizes


def test_image_folder_asks_for_its_place(composed, tmp_path):
    with pytest.raises(ConfigError, match=r"python launch\.py data=image_folder data\.root=PATH"):
        build_data(composed("data=image_folder").data, 0, torch.device("cpu"), tmp_path)
