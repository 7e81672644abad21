"""Which samples train, validate and test: the same samples for every method with the same seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.sampling import generator
from fsamlab.seeding import Stream


@dataclass(frozen=True)
class Split:
    """Positions (int64) in the training part of the set; `test` is None where the set has a test part of its own."""

    train: Tensor
    val: Tensor
    test: Tensor | None


def make_split(num_samples: int, has_test_part: bool, cfg: DataConfig, seed: int) -> Split:
    """Shuffle by seed and cut: first the test set, then the validation set, then the training set.

    With this order the test set does not depend on `val_size`, and the validation set does not depend on `train_size`:
    `train_size` keeps the first samples of the shuffled rest.

    Raises:
        ConfigError: a size does not fit the set, or the sizes do not fit each other.
    """
    if has_test_part and cfg.test_size is not None:
        raise ConfigError("data.test_size", cfg.test_size, f"{cfg.name} has a test part of its own; leave it null")
    if not has_test_part and cfg.test_size is None:
        raise ConfigError(
            "data.test_size",
            "null",
            f"{cfg.name} has no test part of its own; give a size below {num_samples}",
        )
    num_test = cfg.test_size or 0
    num_left = num_samples - num_test - cfg.val_size
    if num_left < 1:
        key, value = ("data.val_size", cfg.val_size) if cfg.val_size else ("data.test_size", num_test)
        raise ConfigError(
            key,
            value,
            f"test ({num_test}) and validation ({cfg.val_size}) must leave some of {num_samples} samples to train",
        )
    if cfg.train_size is not None and cfg.train_size > num_left:
        raise ConfigError(
            "data.train_size", cfg.train_size, f"must be <= {num_left}, the samples that the split leaves"
        )
    order = torch.randperm(num_samples, generator=generator(seed, Stream.SPLIT))
    test, val, train = order.split([num_test, cfg.val_size, num_left])
    return Split(train[: cfg.train_size], val, None if has_test_part else test)


def check_batch_size(num_train: int, cfg: DataConfig) -> None:
    """Refuse batch sizes that do not fit the training set.

    Raises:
        ConfigError: a batch is larger than the set; or the last batch has one sample, from which BatchNorm cannot take
            statistics.
    """
    if cfg.batch_size > num_train:
        raise ConfigError("data.batch_size", cfg.batch_size, f"must be <= {num_train}, the training samples")
    if cfg.batch_size > 1 and num_train % cfg.batch_size == 1 and not cfg.drop_last:
        raise ConfigError(
            "data.batch_size",
            cfg.batch_size,
            f"leaves a last batch of one of {num_train} samples; change the batch size or set data.drop_last=true",
        )


def split_hash(split: Split, train_labels: Tensor) -> str:
    """Return 16 hex digits; two runs share them when their splits and (noisy) training labels are equal."""
    digest = hashlib.sha256()
    for part in (split.train, split.val, split.test, train_labels):
        values = [] if part is None else part.tolist()
        digest.update(f"{len(values)}:{','.join(map(str, values))};".encode())
    return digest.hexdigest()[:16]


def facts_of(split: Split, num_test: int, clean: Tensor, noisy: Tensor) -> dict[str, int | float | str]:
    """Return the facts that a run records about its data; see :class:`~fsamlab.data.interface.Data`."""
    return {
        "num_train": len(split.train),
        "num_val": len(split.val),
        "num_test": num_test,
        "effective_label_noise": (noisy != clean).double().mean().item(),
        "split_hash": split_hash(split, noisy),
    }
