"""Long-tailed training sets: the number of images falls exponentially from the first class to the last class.

The profile of Cui et al. 2019 (arXiv 1901.05555) as Cao et al. 2019 (LDAM, arXiv 1906.07413) use it: class c of C
classes keeps n_c = floor(n_max imbalance^(-c / (C - 1))) images, so that the first class has `imbalance` times as many
images as the last one. In their code n_max is the mean size of a class; here n_max is the largest number for which
every class has enough images. For the whole CIFAR both are the size of a class.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.split import Split

ROUNDING = 1e-9  # 5000 * 0.01 has to count as 50


def class_counts(available: Tensor, imbalance: float) -> Tensor:
    """Return how many images each class keeps, int64 (C,), from the number that each class has, int64 (C,)."""
    c = torch.arange(len(available)).double()
    shares = imbalance ** (-c / (len(available) - 1))
    largest = (available / shares + ROUNDING).floor().min()
    return (largest * shares + ROUNDING).floor().long()


def long_tailed(split: Split, labels: Tensor, num_classes: int, cfg: DataConfig) -> Split:
    """Return the split with the training part that `data.imbalance` leaves; the split itself for a factor of 1.

    Each class keeps its first images in the shuffled order of the split. So the choice follows from the seed, and the
    images of a class at a larger factor are among those at a smaller factor, unless n_max differs.

    Args:
        split: the split, with `data.train_size` applied.
        labels: true labels of the whole set, int64 (n,).
        num_classes: the number of classes C.
        cfg: the factor.

    Raises:
        ConfigError: a class would keep no image.
    """
    if cfg.imbalance == 1:
        return split
    classes = labels[split.train]
    available = classes.bincount(minlength=num_classes)
    counts = class_counts(available, cfg.imbalance)
    if int(counts.min()) == 0:
        empty = int((available if int(available.min()) == 0 else counts).argmin())
        allowed = f"leaves no image of class {empty}: it has {int(available[empty])} training images, and class 0 would"
        allowed += f" keep {int(counts[0])}; lower the factor, or train on more images"
        raise ConfigError("data.imbalance", cfg.imbalance, allowed)
    rank = torch.empty_like(classes)  # the position of each image among those of its class
    for c in range(num_classes):
        rank[classes == c] = torch.arange(int(available[c]))
    return dataclasses.replace(split, train=split.train[rank < counts[classes]])


def facts_of_classes(labels: Tensor, num_classes: int, cfg: DataConfig) -> dict[str, int | float | str]:
    """Return the number of training images of each class as a fact of the run; empty for a factor of 1.

    Args:
        labels: true labels of the training part.
        num_classes: the number of classes.
        cfg: the factor.
    """
    if cfg.imbalance == 1:
        return {}
    return {"class_counts": " ".join(map(str, labels.bincount(minlength=num_classes).tolist()))}
