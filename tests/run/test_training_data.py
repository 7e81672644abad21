"""Runs on files in the real formats: label noise, long tails, mixing and RandAugment from the config to the record."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from support.made_data import write_cifar, write_human
from support.runs import compose_tiny

from fsamlab.config import AugmentConfig, ConfigError, DataConfig
from fsamlab.run import run
from fsamlab.rundir.reading import read_summary
from fsamlab.rundir.rows import read_rows

CLEAN = np.arange(12) % 10  # as write_cifar has them
MIXED = AugmentConfig(crop_padding=4, flip=True, cutout=8, mixup=0.4, cutmix=1.0, randaugment="rand-m9-mstd0.5-inc1")


def config(root, *overrides, **fields):
    fixed = {"root": str(root), "batch_size": 4, "eval_batch_size": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    data = DataConfig(**{"name": "cifar10", "val_size": 2, "augment": MIXED, **fixed, **fields})
    whole = compose_tiny("diagnostics=off", "optimizer=sam", "train.epochs=2", *overrides)
    return dataclasses.replace(whole, data=data)


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_cifar(tmp_path / "data", torchvision.datasets.CIFAR10, "labels", monkeypatch)
    return tmp_path / "data"


def timeless(directory):
    return [{k: v for k, v in row.items() if not k.startswith("time")} for row in read_rows(directory)]


def test_labels_of_people_with_mixed_and_changed_images(tmp_path, root):
    write_human(root / "CIFAR-10_human.pt", clean_label=CLEAN, worse_label=(CLEAN + 1) % 10)
    human = config(root, noise_type="human", human_labels="worst")
    run(human, tmp_path / "human")
    assert read_summary(tmp_path / "human")["data/effective_label_noise"] == 1.0
    row = timeless(tmp_path / "human")[-1]
    assert {"train/loss", "train/acc1", "val/acc1", "test/acc1"} <= row.keys()
    write_human(root / "CIFAR-10_human.pt", clean_label=CLEAN, worse_label=CLEAN)
    with pytest.raises(ConfigError, match=r"data\.human_labels=worst: has changed since human started"):
        run(human, tmp_path / "human")


@pytest.mark.long
def test_a_long_tail_is_in_the_record(tmp_path):
    run(compose_tiny("data.imbalance=4", "diagnostics=off", "train.max_steps=2"), tmp_path / "tail")
    summary = read_summary(tmp_path / "tail")
    counts = [int(count) for count in summary["data/class_counts"].split()]
    assert sum(counts) == summary["data/num_train"] < 160  # of 352 images 128 are for the test and 64 for validation
    assert counts[9] == counts[0] // 4
    assert counts == sorted(counts, reverse=True)


def test_the_same_run_again_has_the_same_bits(tmp_path, root):
    for name in ("one", "two"):
        np.random.seed(0 if name == "one" else 1)
        run(config(root, noise_type="instance", label_noise=0.5), tmp_path / name)
    assert timeless(tmp_path / "one") == timeless(tmp_path / "two")
    paths = [tmp_path / name / "checkpoints" / "last.pt" for name in ("one", "two")]
    first, second = (torch.load(path, weights_only=True)["model"] for path in paths)
    assert all(torch.equal(first[key], second[key]) for key in first)
