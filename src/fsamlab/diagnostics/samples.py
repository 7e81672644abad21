"""The training samples of any loop, as the measurements read them: from tensors, a data set, or batches."""

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

Coming = Callable[[], Iterable[Batch]]  # the batches of the coming steps, in order; `indices` are those of the source
TAKEN = "a pair of tensors (inputs, targets), a Dataset or DataLoader of such pairs, or an iterable of batches"


class Source(Protocol):
    """The training samples; a part of :class:`~fsamlab.data.TrainSource`. No method changes the source."""

    num_samples: int

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions, each the same in every call; `augmented` as training has them."""
        ...

    def other(self, step: int, size: int) -> Batch:
        """Return `size` samples, drawn without replacement and augmented anew for each step."""
        ...


class DatasetSource:
    """Implements :class:`Source` on a function that reads samples of a data set.

    Samples may be augmented at random while they are read, as the transforms of torchvision do. The random state is
    set for each sample and restored afterwards, so that a measurement repeats itself and training does not see it.

    Args:
        num_samples: of the training set.
        read: positions -> (inputs, targets) of the samples at these positions.
        seed: of the draws.
    """

    def __init__(self, num_samples: int, read: Callable[[Tensor], tuple[Tensor, Tensor]], seed: int) -> None:
        self.num_samples, self._read, self._seed = num_samples, read, seed

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions; both kinds are the same, as `read` gives them."""
        return self._batch(indices, Stream.PROBE)

    def other(self, step: int, size: int) -> Batch:
        """Return `size` samples that are drawn at random for this step."""
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
    np.random.seed(seed % 2**32)  # numpy takes no more


class TensorSource:
    """Implements :class:`Source` on two tensors."""

    def __init__(self, inputs: Tensor, targets: Tensor, seed: int) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets: each sample needs one of each")
        self.num_samples, self._inputs, self._targets, self._seed = len(inputs), inputs, targets, seed

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions; nothing augments them."""
        inputs, targets = (column[indices.to(column.device)] for column in (self._inputs, self._targets))
        return Batch(inputs, targets, indices)

    def other(self, step: int, size: int) -> Batch:
        """Return `size` samples that are drawn at random for this step."""
        return self.at(draw_other(self.num_samples, size, self._seed, step))


def source_of(data: Any, batch_size: int | None = None, seed: int = 0) -> tuple[Source, int]:
    """Return the samples of `data`, and the batch size of training.

    Args:
        data: a pair of tensors (inputs, targets); a torch Dataset or a DataLoader, of which only the samples that are
            measured are read; or an iterable of batches, all of which are kept. The sampler of a DataLoader is not
            asked: where it leaves samples out, give the DataLoader of a `torch.utils.data.Subset`.
        batch_size: of training; None takes that of the DataLoader, or the size of the first batch.
        seed: of the draws.

    Raises:
        TypeError: data of another kind.
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
    with random_state_restored():  # a shuffling loader draws
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
