"""The interface between data and training: batches that are functions of (seed, epoch, batch number)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fsamlab.task import Samples


@dataclass(frozen=True)
class Batch(Samples):
    """Inputs with their targets, all on the training device.

    Attributes:
        inputs: float32 (batch, channels, height, width) for images, (batch, columns) for a table; normalised and,
            for training, augmented.
        targets: int64 (batch,) labels, which carry the label noise in training; float32 (batch, values) of a
            regression.
        indices: int64 (batch,); positions in the training (or evaluation) set.
    """

    indices: Tensor

    @property
    def size(self) -> int:
        """Return the number of samples of the batch on all ranks."""
        return len(self)

    @property
    def images(self) -> Tensor:
        """Return the inputs under the name that they have for images."""
        return self.inputs

    @property
    def labels(self) -> Tensor:
        """Return the targets under the name that they have in a classification."""
        return self.targets

    def first(self, size: int) -> Batch:
        """Return the first `size` samples; views, not copies."""
        return self.between(0, size)

    def between(self, start: int, stop: int) -> Batch:
        """Return the samples at the positions from `start` to `stop`; views, not copies."""
        return Batch(self.inputs[start:stop], self.targets[start:stop], self.indices[start:stop])


@dataclass(frozen=True)
class BatchOfRank(Batch):
    """What one rank computes of a batch of `whole` samples."""

    whole: int

    @property
    def size(self) -> int:
        """Return the number of samples of the batch on all ranks."""
        return self.whole


def concatenate(batches: list[Batch]) -> Batch:
    """Join batches into one batch."""
    inputs, targets, indices = ([getattr(b, name) for b in batches] for name in ("inputs", "targets", "indices"))
    return Batch(torch.cat(inputs), torch.cat(targets), torch.cat(indices))


class TrainSource(Protocol):
    """The training set. No method changes its state: the same arguments give the same batches.

    Each rank of a training by several ranks computes a part of each batch. A set with an attribute `takes_cut = True`
    is given a further argument `cut` (fsamlab.data.cut) in :meth:`batches`, :meth:`other` and :meth:`full`, and returns
    `cut.taken` of each batch. Of other sets the loop cuts the batches.
    """

    num_samples: int

    def num_batches(self) -> int:
        """Return the number of batches in an epoch."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on; batch n is the same batch for every `start`."""
        ...

    def other(self, step: int, size: int, nested_in: Batch | None = None) -> Batch:
        """Return the ascent batch of SAM-db and of Figure 2c (arXiv 2403.12350) at a global step.

        Args:
            step: the global step; step and seed determine the draw.
            size: number of samples, drawn without replacement and independently of the epoch's order.
            nested_in: the descent batch, if the two batches share samples. A smaller ascent batch has the first samples
                of the descent batch, with the same augmented pixels. A larger ascent batch has the whole descent batch
                and draws the rest.

        Raises:
            ConfigError: `size` is larger than the training set.
        """
        ...

    def full(self, step: int) -> Iterator[Batch]:
        """Yield the whole training set once, with a new augmentation for each step.

        The chunks have at most `data.eval_batch_size` samples, and their sizes differ by at most one, so that no chunk
        is too small for batch statistics. Weigh each chunk by its length.
        """
        ...

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions as one batch, for measurements.

        Args:
            indices: positions in the training set, int64 (k,).
            augmented: True: each sample has one fixed augmentation, the same in every call with the same indices.
                False: without augmentation, as in evaluation.
        """
        ...


class EvalSource(Protocol):
    """A validation or test set.

    A set may have a method `every(step, start)`, which yields batches number `start`, `start + step`, ...: each of
    several ranks then makes its own batches alone.
    """

    num_samples: int

    def batches(self) -> Iterator[Batch]:
        """Yield the set once, in order, without augmentation."""
        ...


@dataclass
class Data:
    """A data set, split and ready for training.

    Attributes:
        val: held out from the training part, with clean labels; None with `data.val_size=0`.
        facts: values for the record of a run: `num_train`, `num_val`, `num_test`, `effective_label_noise` (share of
            training labels that differ from the true ones), `split_hash` (of split and labels) and, for a long-tailed
            set, `class_counts`.
        num_classes: width of the model's output: classes, or values of a regression.
        in_channels: channels of the images, or columns of a table.
        image_size: height and width of the images; None if they are not known.
        task: which of the built-in tasks the targets are for, `classification` or `regression`; a task of a user's own
            takes any targets.
        classes: the names of the classes in the order of the labels, where class folders give names.
    """

    train: TrainSource
    val: EvalSource | None
    test: EvalSource
    num_classes: int
    in_channels: int
    facts: dict[str, int | float | str]
    image_size: tuple[int, int] | None = None
    task: str = "classification"
    classes: tuple[str, ...] = ()
