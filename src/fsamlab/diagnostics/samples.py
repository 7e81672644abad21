"""The training samples of any loop, from tensors, a data set or batches, in the form that the measurements read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from fsamlab.data import Batch
from fsamlab.data.sampling import draw_other
from fsamlab.diagnostics.context import random_state_restored
from fsamlab.seeding import Stream, derive_seed

Coming = Callable[[], Iterable[Batch]]  # returns the batches of the next steps; `indices` point into the source
TAKEN = "a pair of tensors (inputs, targets), a Dataset or DataLoader of such pairs, or an iterable of batches"


class Source(Protocol):
    """The training samples. No method changes the source. :class:`~fsamlab.data.TrainSource` has these methods too."""

    num_samples: int

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions, the same ones in every call; `augmented`: as training sees them."""
        ...

    def other(self, step: int, size: int) -> Batch:
        """Return `size` samples, drawn without replacement and augmented anew for each step."""
        ...


class DatasetSource:
    """Implements :class:`Source` with a function that reads samples of a data set.

    Reading may augment samples at random, as the transforms of torchvision do. The random state is set for each sample
    and restored afterwards, so that a measurement can be repeated and does not change training.

    Args:
        num_samples: number of samples of the training set.
        read: positions -> (inputs, targets) of the samples at these positions.
        seed: seed of the random draws.
    """

    def __init__(self, num_samples: int, read: Callable[[Tensor], tuple[Tensor, Tensor]], seed: int) -> None:
        self.num_samples, self._read, self._seed = num_samples, read, seed

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions as `read` gives them, whether `augmented` or not."""
        return self._batch(indices, Stream.PROBE)

    def other(self, step: int, size: int) -> Batch:
        """Return `size` random samples; the draw depends on the step."""
        return self._batch(draw_other(self.num_samples, size, self._seed, step), Stream.OTHER_BATCH, step)

    def _batch(self, indices: Tensor, *stream: int) -> Batch:
        pieces = []
        with random_state_restored():
            for index in indices.cpu().split(1):
                _seed_all(derive_seed(self._seed, *stream, int(index)))
                pieces.append(self._read(index))
        inputs, targets = (torch.cat(column) for column in zip(*pieces))
        return Batch(inputs, targets, indices)


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits


class TensorSource:
    """Implements :class:`Source` with two tensors."""

    def __init__(self, inputs: Tensor, targets: Tensor, seed: int) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets: each sample needs one of each")
        self.num_samples, self._inputs, self._targets, self._seed = len(inputs), inputs, targets, seed

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions, without augmentation."""
        inputs, targets = (column[indices.to(column.device)] for column in (self._inputs, self._targets))
        return Batch(inputs, targets, indices)

    def other(self, step: int, size: int) -> Batch:
        """Return `size` random samples; the draw depends on the step."""
        return self.at(draw_other(self.num_samples, size, self._seed, step))


def source_of(data: Any, batch_size: int | None = None, seed: int = 0) -> tuple[Source, int]:
    """Return the samples of `data`, and the batch size of training.

    Args:
        data: a pair of tensors (inputs, targets); or a torch Dataset or DataLoader, of which only the measured samples
            are read; or an iterable of batches, which are all kept in memory. The sampler of a DataLoader is ignored.
            If the sampler leaves samples out, give the DataLoader of a `torch.utils.data.Subset`.
        batch_size: batch size of training. None means the batch size of the DataLoader, or the size of the first batch.
        seed: seed of the random draws.

    Raises:
        TypeError: data that is none of these.
        ValueError: no samples, or no batch size.
    """
    source, found = _source_of(data, seed)
    size = batch_size or found
    if not source.num_samples:
        raise ValueError(f"data has no samples; give {TAKEN}")
    if size is None:
        raise ValueError("batch_size is missing: give the batch size of training")
    return source, size


def _source_of(data: Any, seed: int) -> tuple[Source, int | None]:
    if _is_pair(data):
        return TensorSource(data[0], data[1], seed), None
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        return _of_dataset(data.dataset, data.collate_fn, seed), data.batch_size
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return _of_dataset(data, default_collate, seed), None
    if isinstance(data, Tensor | Dataset) or not isinstance(data, Iterable):
        raise TypeError(f"data of type {type(data).__name__} cannot be measured on; give {TAKEN}")
    with random_state_restored():  # a loader that shuffles draws random numbers
        batches = list(data)
    for batch in batches:
        if not _is_pair(batch):
            raise TypeError(f"a batch of type {type(batch).__name__} is no pair of tensors; give {TAKEN}")
    if not batches:
        raise ValueError(f"data has no samples; give {TAKEN}")
    inputs, targets = (torch.cat(column) for column in zip(*batches))
    return TensorSource(inputs, targets, seed), len(batches[0][1])


def _of_dataset(dataset: Any, collate: Callable[[list[Any]], Any], seed: int) -> DatasetSource:
    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        batch = collate([dataset[int(index)] for index in indices])
        if not _is_pair(batch):
            raise TypeError(f"a batch of type {type(batch).__name__} is no pair of tensors; give {TAKEN}")
        return batch[0], batch[1]

    return DatasetSource(len(dataset), read, seed)


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
