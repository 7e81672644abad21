from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support.made_data import pictures, write_cifar
from timm.data.auto_augment import rand_augment_transform

from fsamlab.config import AugmentConfig, ConfigError, DataConfig, ImageFolderConfig, SyntheticConfig
from fsamlab.data import build_data
from fsamlab.data.foreign_random import drawing_from
from fsamlab.data.rand_augment import RandAugment, posterize

CPU = torch.device("cpu")
WORDS = "rand-m9-mstd0.5-inc1"
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def images(n=16, channels=3, side=12):
    gen = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=gen)


def equal(a, b):
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


def test_an_image_is_changed_as_by_timm_with_the_same_draws():
    ours = RandAugment(WORDS, 12, [0.5, 0.25, 0.0])
    image = Image.fromarray(images()[0].permute(1, 2, 0).numpy())
    changed = 0
    for seed in range(20):
        with drawing_from(seed):
            expected = rand_augment_transform(WORDS, {"translate_const": 5, "img_mean": (128, 64, 0)})(image)
        assert np.array_equal(ours.seeded(image, seed), expected)
        changed += not np.array_equal(image, expected)
    assert changed > 5


def test_draws_follow_from_the_generator_alone_and_disturb_none():
    ours = RandAugment(WORDS, 12, [0.5] * 3)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = ours.batch(images(), torch.Generator().manual_seed(1))
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(4), np.random.seed(4)
    assert torch.equal(first, ours.batch(images(), torch.Generator().manual_seed(1)))
    other = ours.batch(images(), torch.Generator().manual_seed(2))
    assert not torch.equal(first, other)
    assert (first != images()).flatten(1).any(1).sum() > 4  # most images, each in its own way


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_takes_grey_and_colour_at_every_magnitude(channels):
    for words in ("rand-m10-n9-p1-inc1", "rand-m0-n9-p1", "rand-m30-mmax40-n9-p1", "rand-t3aw-n9-p1-m10"):
        changed = RandAugment(words, 12, [0.5] * channels).batch(images(8, channels), torch.Generator().manual_seed(0))
        assert changed.shape == (8, channels, 12, 12)
        assert changed.dtype == torch.uint8


def test_posterize_keeps_the_upper_bits():
    grey = Image.fromarray(np.array([[255, 100, 7]], dtype=np.uint8))
    assert np.asarray(posterize(grey, 2)).tolist() == [[192, 64, 0]]
    assert np.asarray(posterize(grey, 0)).tolist() == [[0, 0, 0]]
    assert np.asarray(posterize(grey, 39)).tolist() == [[255, 100, 7]]


@pytest.mark.parametrize(
    "words", ["augmix-m5", "rand-", "rand-x3", "rand-m9.5", "rand-p2", "rand-tfoo", "rand-mstd", "rand-n0", "Rand-m9"]
)
def test_other_words_are_refused_before_anything_is_read(words):
    with pytest.raises(ConfigError, match=r"data\.augment\.randaugment=.*must have timm's form, for example rand-m9"):
        AugmentConfig(randaugment=words)


@pytest.mark.parametrize("words", ["rand", WORDS, "rand-n3-m15-p0.6-mmax20", "rand-tweights-mstd1", "rand-t3a-inc0-p1"])
def test_words_of_timm_are_taken(words):
    AugmentConfig(randaugment=words)
    RandAugment(words, 32, [0.5] * 3).batch(images(2), torch.Generator().manual_seed(0))


def test_a_set_in_memory_is_changed_in_training_alone(tmp_path, monkeypatch):
    write_cifar(tmp_path / "data", torchvision.datasets.CIFAR10, "labels", monkeypatch)
    fields = {"batch_size": 4, "val_size": 4, "mean": [0.5] * 3, "std": [0.25] * 3}
    fields["augment"] = AugmentConfig(crop_padding=4, flip=True, cutout=8)
    plain = build_data(DataConfig(name="cifar10", **fields), 0, CPU, tmp_path)
    fields["augment"] = dataclasses.replace(fields["augment"], randaugment=WORDS)
    data, again = (build_data(DataConfig(name="cifar10", **fields), 0, CPU, tmp_path) for _ in range(2))
    epoch = list(data.train.batches(1))
    assert all(equal(a, b) for a, b in zip(epoch[1:], again.train.batches(1, start=1), strict=True))
    assert not equal(epoch[0], next(plain.train.batches(1)))
    assert torch.equal(epoch[0].indices, next(plain.train.batches(1)).indices)
    every = torch.arange(8)
    assert equal(data.train.at(every), plain.train.at(every))  # as evaluation sees the samples
    assert equal(data.train.at(every, augmented=True), again.train.at(every, augmented=True))
    assert equal(next(data.val.batches()), next(plain.val.batches()))


def test_sets_of_other_pixels_are_refused_in_one_line():
    cfg = SyntheticConfig(name="synthetic", test_size=64, augment=AugmentConfig(randaugment=WORDS))
    with pytest.raises(ConfigError, match=r"needs images of 8 bits, grey .*; synthetic has 1 channels of float32"):
        build_data(cfg, 0, CPU, Path())


def test_folders_of_pictures_are_changed_by_the_seed_of_each_picture(tmp_path):
    pictures(tmp_path, 6, 2)
    sizes = {"image_size": 8, "resize": 8, "batch_size": 4, "eval_batch_size": 4}

    def built(**fields):
        cfg = ImageFolderConfig(name="image_folder", root=str(tmp_path), **sizes, **fields)
        return build_data(cfg, 0, CPU, tmp_path)

    augment = AugmentConfig(randaugment="rand-m9-n4-p1-mstd0.5-inc1")
    plain, data, workers = built(), built(augment=augment), built(augment=augment, num_workers=2)
    epoch = list(data.train.batches(0))
    random.seed(1), np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].copy()
    assert all(equal(a, b) for a, b in zip(epoch, workers.train.batches(0), strict=True))
    assert all(equal(a, b) for a, b in zip(epoch[1:], data.train.batches(0, start=1), strict=True))
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert not equal(epoch[0], next(plain.train.batches(0)))
    assert equal(next(data.test.batches()), next(plain.test.batches()))
    assert equal(data.train.at(torch.arange(4)), plain.train.at(torch.arange(4)))
