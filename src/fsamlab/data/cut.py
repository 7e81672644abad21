"""Which samples of a batch this rank computes: the batch of the whole run is cut into micro-batches and over ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fsamlab.config import ConfigError
from fsamlab.data.interface import Batch, BatchOfRank
from fsamlab.data.transfer import to_device


@dataclass(frozen=True)
class Piece:
    """The samples `start` to `stop` of a batch, which one rank computes as its share of a micro-batch.

    Attributes:
        whole: the number of samples of the micro-batch on all ranks.
        counts: False where a rank has no sample of its own: it computes a sample of another rank with weight 0, since
            all ranks have to take part in a pass.
    """

    start: int
    stop: int
    whole: int
    counts: bool = True

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Among:
    """The place of a rank's samples in a batch of `whole` samples; both None for all samples.

    Attributes:
        positions: int64, on the CPU.
        whole: the number of samples of the batch.
    """

    positions: Tensor | None
    whole: int | None

    def size(self, own: int) -> int:
        """Return the number of samples of the batch, of which `own` are here."""
        return own if self.whole is None else self.whole

    def marked(self, batch: Batch) -> Batch:
        """Return the rank's samples as a part of their batch."""
        if self.whole is None:
            return batch
        return BatchOfRank(batch.inputs, batch.targets, batch.indices, self.whole)

    def of(self, values: Tensor) -> Tensor:
        """Return the values of the rank's samples, out of the values of the batch."""
        return values if self.positions is None else values[self.positions]


@dataclass(frozen=True)
class Cut:
    """How a batch is cut.

    Attributes:
        rank, size: of the ranks; sizes of their shares differ by at most one sample.
        parts: the number of micro-batches, cut as torch's `chunk` cuts.
        by_rank_first: the ranks get what `chunk` gives, and each rank cuts its share into micro-batches. Else each
            micro-batch is cut over the ranks, so that a micro-batch has the same samples for any number of ranks.
    """

    rank: int = 0
    size: int = 1
    parts: int = 1
    by_rank_first: bool = False

    def pieces(self, n: int) -> list[Piece]:
        """Return this rank's piece of each micro-batch of a batch of `n` samples."""
        if self.by_rank_first:
            shares = _chunks(0, n, self.size)
            if self.rank >= len(shares):
                return [Piece(0, 1, n, counts=False)]
            return [Piece(a, b, b - a) for a, b in _chunks(*shares[self.rank], self.parts)]
        found = []
        for a, b in _chunks(0, n, self.parts):
            start, stop = (a + (b - a) * k // self.size for k in (self.rank, self.rank + 1))
            found.append(Piece(start, stop, b - a) if stop > start else Piece(a, a + 1, b - a, counts=False))
        return found

    def positions(self, n: int) -> Tensor:
        """Return the positions (int64) that this rank computes in a batch of `n` samples, piece after piece."""
        return torch.cat([torch.arange(piece.start, piece.stop) for piece in self.pieces(n)])

    def taken(self, indices: Tensor) -> tuple[Tensor, Among]:
        """Return what this rank computes of a batch of samples, and where these samples are in the batch."""
        if self.size == 1:
            return indices, ALL
        positions = self.positions(len(indices))
        return indices[to_device(positions, indices.device)], Among(positions, len(indices))

    def of(self, batch: Batch) -> list[tuple[Piece, Batch]]:
        """Return the pieces with their samples.

        Args:
            batch: of the whole run, or what a data source has kept of it for this rank.
        """
        if self.size == self.parts == 1:
            return [(Piece(0, len(batch), len(batch)), batch)]
        pieces = self.pieces(batch.size)
        if not isinstance(batch, BatchOfRank):
            return [(piece, batch.between(piece.start, piece.stop)) for piece in pieces]
        found, start = [], 0
        for piece in pieces:
            found.append((piece, batch.between(start, start + len(piece))))
            start += len(piece)
        return found

    def check(self, n: int, batch_size: int, at_least: int) -> None:
        """Refuse a batch of `n` samples that does not give each rank `at_least` samples in each micro-batch.

        Raises:
            ConfigError: says what to change.
        """
        cuts = [Cut(rank, self.size, self.parts, self.by_rank_first) for rank in range(self.size)]
        smallest = min(len(piece) if piece.counts else 0 for cut in cuts for piece in cut.pieces(n))
        if smallest < at_least:
            which = f"batch of {n} samples" if n == batch_size else f"last batch of {n} samples"
            more = "" if self.parts == 1 else f" and train.accumulate_steps={self.parts}"
            few = "no sample" if smallest == 0 else "one sample, from which BatchNorm cannot take statistics"
            allowed = (
                f"leaves a rank {few}: {self.size} ranks{more} cut a {which}; take fewer ranks or another batch size"
                + ("" if n == batch_size else ", or data.drop_last=true")
            )
            raise ConfigError("data.batch_size", batch_size, allowed)


ALL = Among(None, None)
EVERYTHING = Cut()  # of a run with one process


def _chunks(start: int, stop: int, number: int) -> list[tuple[int, int]]:
    """Return (start, stop) of at most `number` pieces, as torch's `chunk` cuts them."""
    size = max(1, -(-(stop - start) // number))
    return [(a, min(a + size, stop)) for a in range(start, stop, size)]
