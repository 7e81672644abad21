from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.made_data import pictures

from fsamlab.config import ConfigError, DataConfig, ImageFolderConfig, SyntheticConfig
from fsamlab.data import build_data
from fsamlab.data.long_tail import class_counts, long_tailed
from fsamlab.data.split import make_split

CPU = torch.device("cpu")
LABELS = torch.arange(1000) % 10  # 100 images of each class


def split_of(imbalance, seed=0, labels=LABELS, **fields):
    cfg = DataConfig(name="mine", imbalance=imbalance, **fields)
    return long_tailed(make_split(len(labels), True, cfg, seed), labels, 10, cfg)


def counts_of(split, labels=LABELS):
    return labels[split.train].bincount(minlength=10).tolist()


@pytest.mark.parametrize(
    ("classes", "images", "imbalance", "total", "ends"),
    [
        (10, 5000, 100, 12_406, (5000, 50)),  # CIFAR-10-LT and CIFAR-100-LT as LDAM's code makes them
        (10, 5000, 10, 20_431, (5000, 500)),
        (100, 500, 100, 10_847, (500, 5)),
        (100, 500, 10, 19_573, (500, 50)),
        (2, 7, 7, 8, (7, 1)),
    ],
)
def test_the_profile_is_that_of_ldam(classes, images, imbalance, total, ends):
    counts = class_counts(torch.full((classes,), images), imbalance)
    expected = [int(images * (1 / imbalance) ** (c / (classes - 1)) + 1e-9) for c in range(classes)]
    assert counts.tolist() == expected
    assert (int(counts.sum()), (int(counts[0]), int(counts[-1]))) == (total, ends)


def test_the_largest_class_is_as_large_as_every_class_allows():
    assert class_counts(torch.tensor([90, 100, 100]), 4).tolist() == [90, 45, 22]
    assert class_counts(torch.tensor([100, 30, 100]), 4).tolist() == [60, 30, 15]  # class 1 keeps all that it has


def test_the_training_part_alone_is_cut_after_the_validation_part_is_held_out():
    cut, whole = split_of(20.0, val_size=100), split_of(1.0, val_size=100)
    assert torch.equal(cut.val, whole.val)
    assert counts_of(cut) == class_counts(torch.tensor(counts_of(whole)), 20).tolist()
    places = [whole.train.tolist().index(i) for i in cut.train.tolist()]
    assert places == sorted(places)  # the order of the split stays
    for c in range(10):  # each class keeps its first images
        of_class = whole.train[LABELS[whole.train] == c]
        mine = cut.train[LABELS[cut.train] == c]
        assert torch.equal(mine, of_class[: len(mine)])


def test_it_follows_the_seed_and_is_nested_in_the_factor():
    little, much = split_of(5.0), split_of(50.0)
    assert set(much.train.tolist()) < set(little.train.tolist())
    assert torch.equal(much.train, split_of(50.0).train)
    assert not torch.equal(much.train, split_of(50.0, seed=1).train)


def test_train_size_counts_the_images_before_the_cut():
    split = split_of(4.0, train_size=500)
    before = LABELS[split_of(1.0, train_size=500).train].bincount(minlength=10)
    assert counts_of(split) == class_counts(before, 4).tolist()


def test_a_class_without_images_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"data\.imbalance=500\.0: leaves no image of class 7: .* would keep 100"):
        split_of(500.0)
    with pytest.raises(ConfigError, match="leaves no image of class 9: it has 0 training images"):
        split_of(2.0, labels=torch.arange(900) % 9)  # nothing of class 9 is there
    with pytest.raises(ConfigError, match=r"data\.imbalance=0\.5: must be finite and >= 1"):
        DataConfig(name="mine", imbalance=0.5)
    with pytest.raises(ConfigError, match=r"data\.imbalance=2\.0: is for the labels of a classification"):
        DataConfig(name="diabetes", imbalance=2.0)


def test_facts_count_the_true_classes_and_noise_is_a_share_of_what_is_left():
    fields = {"num_samples": 600, "num_classes": 4, "test_size": 100, "val_size": 100, "batch_size": 10}
    cfg = SyntheticConfig(name="synthetic", imbalance=8.0, label_noise=0.5, noise_includes_true=False, **fields)
    data = build_data(cfg, 0, CPU, Path())
    counts = [int(count) for count in data.facts["class_counts"].split()]
    assert sum(counts) == data.facts["num_train"] == data.train.num_samples
    assert counts[3] == counts[0] // 8
    assert data.facts["effective_label_noise"] == round(0.5 * sum(counts)) / sum(counts)
    assert data.val.num_samples == data.test.num_samples == 100
    plain = build_data(SyntheticConfig(name="synthetic", **fields), 0, CPU, Path())
    assert "class_counts" not in plain.facts


def test_folders_of_pictures(tmp_path):
    pictures(tmp_path, 8, 2)
    sizes = {"image_size": 8, "resize": 8, "batch_size": 2, "eval_batch_size": 2}
    cfg = ImageFolderConfig(name="image_folder", root=str(tmp_path), imbalance=4.0, **sizes)
    data = build_data(cfg, 0, CPU, tmp_path)
    assert data.facts["class_counts"] == "8 2"
    labels = torch.cat([batch.labels for batch in data.train.batches(0)])
    assert labels.bincount().tolist() == [8, 2]
    assert data.test.num_samples == 4
