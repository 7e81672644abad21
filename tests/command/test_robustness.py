"""Means over corruptions and severities, and the errors relative to AlexNet's."""

import pytest

from fsamlab.command.robustness import ALEXNET_ERROR, entries
from fsamlab.config.corrupted import EXTRA, STANDARD

# the errors of AlexNet at each severity, as several code bases that cite 1903.12261 list them
BY_SEVERITY = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}


def accuracies(names, value):
    """Return metrics for each corruption and severity, from value(number of the corruption, severity)."""
    return {name: [{"acc1": value(i, s), "loss": 2.0} for s in range(1, 6)] for i, name in enumerate(names)}


def test_alexnet_has_an_mce_of_one():
    found = entries("imagenet_c", {k: [{"acc1": 1 - e} for e in errors] for k, errors in BY_SEVERITY.items()})
    assert found["imagenet_c/mce"] == pytest.approx(1, abs=1e-12)
    assert {k: found[f"imagenet_c/{k}/ce"] for k in STANDARD} == pytest.approx(dict.fromkeys(STANDARD, 1), abs=1e-12)
    assert tuple(ALEXNET_ERROR) == STANDARD


def test_a_published_network_has_its_published_corruption_errors():
    # ResNet-50 of torchvision: top-1 on ImageNet-C, and the CE that its evaluation printed
    found = entries("imagenet_c", {"fog": [{"acc1": 0.4583}] * 5, "brightness": [{"acc1": 0.6802}] * 5})
    assert found["imagenet_c/fog/ce"] == pytest.approx(0.6611, abs=1e-4)
    assert found["imagenet_c/brightness/ce"] == pytest.approx(0.5664, abs=1e-4)
    assert "imagenet_c/mce" not in found  # of two corruptions


def test_means_are_over_the_standard_corruptions_and_the_extra_ones_stand_apart():
    standard, extra = accuracies(STANDARD, lambda i, s: (i + s) / 100), accuracies(EXTRA, lambda i, s: 0.9)
    found = entries("cifar10c", {**standard, **extra})
    assert found["cifar10c/acc1"] == pytest.approx(0.10)  # means 7 and 3
    assert found["cifar10c/severity_5/acc1"] == pytest.approx(0.12)
    assert found["cifar10c/shot_noise/acc1"] == pytest.approx(0.04)
    assert found["cifar10c/extra/acc1"] == found["cifar10c/saturate/acc1"] == pytest.approx(0.9)
    assert found["cifar10c/loss"] == 2
    assert not [key for key in found if key.endswith("ce")]  # AlexNet's errors are those on ImageNet-C
    assert len(found) == 2 * (1 + 5 + 1 + 19)


def test_without_all_fifteen_there_is_no_mean_that_looks_like_theirs():
    found = entries("cifar10c", accuracies(STANDARD[:14], lambda i, s: 0.5))
    assert {key.split("/")[1] for key in found} == set(STANDARD[:14])


def test_a_set_without_corruptions_has_its_values():
    assert entries("cifar10", {"": [{"acc1": 0.5, "ece": 0.1}]}) == {"cifar10/acc1": 0.5, "cifar10/ece": 0.1}
