"""Label noise that depends on the class alone, symmetric and asymmetric: exact counts, nested in the ratio.

The official F-SAM code has both kinds for CIFAR-10: its symmetric noise draws from all classes, as the default here,
and its asymmetric noise has the same map. That code takes its asymmetric share of all images at once, this module of
each class.

For one seed, the samples with noisy labels at a small ratio are among the noisy samples of a larger ratio and get the
same labels. So a sweep over the ratio varies nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.sampling import generator
from fsamlab.seeding import Stream

# Patrini et al. 2017 (arXiv 1609.03683), section 5: truck -> automobile, bird -> airplane,
# deer -> horse, cat <-> dog.
CIFAR10_FLIPS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

# The classes of each superclass (Krizhevsky 2009, "Learning multiple layers of features from tiny
# images", and the data set's page). Labels number all the names in alphabetical order.
CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


def cifar100_flips() -> dict[int, int]:
    """Return class -> next class of the same superclass, last class -> first class (Patrini et al. 2017)."""
    groups = [row.split() for row in CIFAR100_SUPERCLASSES.values()]
    label = {name: number for number, name in enumerate(sorted(name for group in groups for name in group))}
    return {label[a]: label[b] for group in groups for a, b in zip(group, group[1:] + group[:1])}


def flips_of(name: str, num_classes: int) -> dict[int, int]:
    """Return the class map of asymmetric noise; a set without a map of its own gets c -> c + 1 (mod C)."""
    if name == "cifar10":
        return CIFAR10_FLIPS
    if name == "cifar100":
        return cifar100_flips()
    return {c: (c + 1) % num_classes for c in range(num_classes)}


def add_label_noise(labels: Tensor, num_classes: int, cfg: DataConfig, seed: int) -> Tensor:
    """Return a copy of `labels` in which a share `cfg.label_noise` is redrawn.

    Symmetric noise: exactly `round(ratio * n)` samples are redrawn uniformly from all classes, so that a share `(1 -
    1/C) * ratio` is wrong on average. With `noise_includes_true=false` the samples are redrawn from the other classes.

    Asymmetric noise: of the n_c samples of each class c in the class map, exactly `round(ratio * n_c)` get the label of
    the class with which c is confused. Classes that are not in the map (half of CIFAR-10's) stay clean.

    The other kinds of noise are in instance_noise.py and human_labels.py.

    Args:
        labels: true labels, int64 (n,).
        num_classes: the number of classes C.
        cfg: ratio and kind of the noise.
        seed: determines which labels change and how.

    Raises:
        ConfigError: a kind of noise that needs more than the labels.
    """
    if cfg.noise_type not in ("symmetric", "asymmetric"):
        allowed = f"needs a set in memory, as data=cifar10; {cfg.name} can have symmetric or asymmetric noise"
        raise ConfigError("data.noise_type", cfg.noise_type, allowed)
    gen = generator(seed, Stream.LABEL_NOISE)
    order = torch.randperm(len(labels), generator=gen)
    # drawn for all samples at every ratio, so that a larger ratio keeps all noisy labels of a smaller ratio
    drawn = torch.randint(num_classes, (len(labels),), generator=gen)
    shifts = torch.randint(1, num_classes, (len(labels),), generator=gen)
    noisy = labels.clone()
    if cfg.noise_type == "asymmetric":
        for source, target in flips_of(cfg.name, num_classes).items():
            members = order[labels[order] == source]
            noisy[members[: round(cfg.label_noise * len(members))]] = target
        return noisy
    chosen = order[: round(cfg.label_noise * len(labels))]
    if cfg.noise_includes_true:
        noisy[chosen] = drawn[chosen]
    else:
        noisy[chosen] = (labels[chosen] + shifts[chosen]) % num_classes
    return noisy
