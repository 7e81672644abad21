from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fsamlab.config import ConfigError, DataConfig, ImageFolderConfig, SyntheticConfig
from fsamlab.data import build_data, instance_noise
from fsamlab.data.instance_noise import add_instance_noise, flip_rates
from fsamlab.data.label_noise import add_label_noise

CLASSES = 5


def images(num=4000, side=4, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.rand(num, 1, side, side, generator=gen), torch.arange(num) % CLASSES


def wrong(ratio, num=4000, seed=0):
    pixels, labels = images(num)
    return add_instance_noise(pixels, labels, CLASSES, ratio, seed) != labels


def test_flip_rates_are_a_truncated_normal_distribution():
    uniform = (torch.arange(100_000).double() + 0.5) / 100_000
    for ratio, mean in ((0.1, 0.1288), (0.2, 0.2055), (0.4, 0.4), (0.95, 1 - 0.1009)):
        rates = flip_rates(uniform, ratio)
        assert rates.mean().item() == pytest.approx(mean, abs=2e-4)
        assert rates.min() >= 0
        assert rates.max() <= 1
    assert flip_rates(uniform, 0.4).std().item() == pytest.approx(0.1, abs=2e-3)
    assert torch.all(flip_rates(uniform, 0.3) >= flip_rates(uniform, 0.2))
    assert torch.isfinite(flip_rates(torch.tensor([0.0, 1.0]).double(), 0.5)).all()


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_the_realised_share_is_near_the_ratio(ratio):
    assert wrong(ratio).double().mean().item() == pytest.approx(ratio, abs=0.025)  # 3 deviations


def test_it_is_nested_in_the_ratio_and_follows_the_seed_alone():
    pixels, labels = images()
    little, much = (add_instance_noise(pixels, labels, CLASSES, ratio, 0) for ratio in (0.2, 0.5))
    changed = little != labels
    assert torch.equal(little[changed], much[changed])
    assert int((much != labels).sum()) > int(changed.sum()) > 0
    torch.manual_seed(7)
    assert torch.equal(little, add_instance_noise(pixels, labels, CLASSES, 0.2, 0))
    assert not torch.equal(little, add_instance_noise(pixels, labels, CLASSES, 0.2, 1))
    assert torch.equal(labels, torch.arange(4000) % CLASSES)
    assert torch.equal(add_instance_noise(pixels, labels, CLASSES, 0.0, 0), labels)


def test_a_label_is_never_flipped_to_itself(monkeypatch):
    """With rates of 1 the share of changed labels is 1: no draw returns the true class."""
    pixels, labels = images(500)
    monkeypatch.setattr(instance_noise, "flip_rates", lambda uniform, ratio: torch.ones_like(uniform))
    noisy = add_instance_noise(pixels, labels, CLASSES, 0.5, 0)
    assert bool((noisy != labels).all())
    assert set(noisy.tolist()) == set(range(CLASSES))


def test_the_wrong_class_depends_on_the_image_and_on_its_class():
    """Of bright images (256 pixels near 1) all but a few of a class get one and the same wrong class."""
    labels = torch.arange(2000) % CLASSES
    kinds = torch.zeros(2000, 1, 16, 16)
    kinds[:1000, :, :8] = 255.0  # two kinds of images
    kinds[1000:, :, 8:] = 255.0
    noisy = add_instance_noise(kinds, labels, CLASSES, 0.5, 0)
    went = {}
    for half in (0, 1):
        for c in range(CLASSES):
            mine = noisy[half * 1000 : half * 1000 + 1000][labels[:1000] == c]
            found = set(mine.tolist()) - {c}
            assert len(found) == 1  # the softmax of scores in the thousands is one class
            went[half, c] = found.pop()
    assert any(went[0, c] != went[1, c] for c in range(CLASSES))


def test_a_set_in_memory_gets_it_and_records_the_share():
    data = build_data(
        SyntheticConfig(name="synthetic", num_samples=1000, test_size=100, label_noise=0.4, noise_type="instance"),
        0,
        torch.device("cpu"),
        Path(),
    )
    assert data.facts["effective_label_noise"] == pytest.approx(0.4, abs=0.05)


def test_sets_without_pixels_in_memory_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"data\.noise_type=instance: needs the pixels of all images in memory"):
        ImageFolderConfig(name="image_folder", noise_type="instance")
    with pytest.raises(ConfigError, match="needs a set in memory"):
        add_label_noise(torch.zeros(4).long(), 2, DataConfig(name="mine", noise_type="instance"), 0)
