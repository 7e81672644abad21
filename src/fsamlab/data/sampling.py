"""The order of an epoch, the draw of another batch, chunks: shared by in-memory and streamed sets."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.transfer import to_device
from fsamlab.seeding import Stream, derive_seed


def generator(*ints: int) -> torch.Generator:
    """Return a generator with the seed `derive_seed(*ints)`; on the CPU, so that all devices get the same draws."""
    return torch.Generator().manual_seed(derive_seed(*ints))


def num_batches(num_samples: int, cfg: DataConfig) -> int:
    """Return the number of batches in an epoch."""
    full, rest = divmod(num_samples, cfg.batch_size)
    return full + (1 if rest and not cfg.drop_last else 0)


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Return the permutation (int64, on the CPU) in which an epoch visits the samples."""
    return torch.randperm(num_samples, generator=generator(seed, Stream.ORDER, epoch))


def draw_other(num_samples: int, size: int, seed: int, step: int, taken: Tensor | None = None) -> Tensor:
    """Draw `size` positions (int64) without replacement, outside of `taken`; on the device of `taken`, else on the CPU.

    Raises:
        ConfigError: the training set has too few samples.
    """
    num_taken = 0 if taken is None else len(taken)
    if size + num_taken > num_samples:
        raise ConfigError(
            "optimizer.ascent_batch_size", size + num_taken, f"must be <= {num_samples}, the training samples"
        )
    # The start of one permutation: for one (seed, step) a smaller draw is a part of a larger draw, so a sweep over the
    # size of the ascent batch varies nothing else.
    order = torch.randperm(num_samples, generator=generator(seed, Stream.OTHER_BATCH, step))
    return order[:size] if taken is None else taken_last(to_device(order, taken.device), taken)[:size]


def taken_last(order: Tensor, taken: Tensor) -> Tensor:
    """Return the permutation `order` with the positions in `taken` at the end; both on one device.

    The host need not know how many positions are left, so it does not wait for the device.
    """
    is_taken = torch.zeros(len(order), dtype=torch.bool, device=order.device).index_fill_(0, taken, True)
    return order[is_taken[order].argsort(stable=True)]


def even_chunks(num_samples: int, at_most: int) -> Iterator[Tensor]:
    """Yield 0..num_samples-1 in order, in the fewest chunks of at most `at_most`; sizes differ by at most one."""
    yield from torch.arange(num_samples).tensor_split(-(-num_samples // at_most))
