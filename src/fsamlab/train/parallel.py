"""What the ranks of a training share in a step: the cut of batches, the average of gradients, the sums of numbers.

With one rank nothing is cut and nothing communicates.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fsamlab.config import ConfigError, TrainConfig
from fsamlab.data import Batch, EvalSource
from fsamlab.data.cut import Cut
from fsamlab.optim import SharpnessAware
from fsamlab.optim.wrapper import KEY
from fsamlab.ranks import Ranks
from fsamlab.train.sync_batchnorm import SynchronisedBatchNorm

T = TypeVar("T")


class Parallel:
    """One model on several ranks.

    Args:
        cfg: how the ranks perturb.
        ranks: the processes that train the model together.

    Attributes:
        per_rank: whether each rank perturbs by the gradient of its own share of the batch.
        own_averages: whether each rank keeps an EMA of its own gradients.
    """

    def __init__(self, cfg: TrainConfig, ranks: Ranks) -> None:
        self.cfg, self.ranks = cfg, ranks
        self.per_rank = cfg.perturbation == "per_rank"
        self.own_averages = self.per_rank and cfg.ema_scope == "rank"
        self._network: Any = None

    def replicated(self, network: nn.Module) -> nn.Module:
        """Return what a training pass calls: `network`, or DistributedDataParallel around it.

        All ranks get the weights and buffers of rank 0.
        """
        self._network = _replicated(network, self.ranks) if self.ranks.size > 1 else network
        found: nn.Module = self._network
        return found

    def cut(self, parts: int) -> Cut:
        """Return how a batch is cut into `parts` micro-batches."""
        return cut_of(self.cfg, self.ranks, parts)

    def weight(self, own: int, total: float) -> float:
        """Return the weight of the mean loss of `own` samples, so that the average over the ranks is the mean loss.

        Args:
            own: the number of samples in a piece of this rank.
            total: the number of samples of the pass: on all ranks, or with `per_rank` on this rank.
        """
        return own / (total if self.per_rank else total / self.ranks.size)

    def averaging(self, on: bool) -> AbstractContextManager[Any]:
        """Return the context of a forward and backward pass, whose gradients are averaged over the ranks if `on`."""
        if on or self.ranks.size == 1:
            return nullcontext()
        no_sync: AbstractContextManager[Any] = self._network.no_sync()
        return no_sync

    def forwarding(self, counts: bool) -> AbstractContextManager[Any]:
        """Return the context of a forward pass of the training; `counts` is that of the :class:`Piece`."""
        if self.ranks.size == 1 or not self.cfg.sync_batchnorm:
            return nullcontext()
        return SynchronisedBatchNorm(counts)

    def mean(self, loss: Tensor) -> Tensor:
        """Return the mean over the ranks."""
        return loss if self.ranks.size == 1 else self.ranks.sum(loss) / self.ranks.size

    def sums(self, own: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Return the sums of metrics over pieces and ranks; all metrics go in one message."""
        if self.ranks.size == 1 or not own:
            return own
        totals = [torch.stack(values).sum(0).double() for values in own.values()]
        flat = self.ranks.sum(torch.cat([total.reshape(-1) for total in totals]))
        found = flat.split([total.numel() for total in totals])
        return {key: [x.view_as(total)] for key, x, total in zip(own, found, totals)}

    def placed(self, pieces: list[tuple[Tensor, Tensor]], total: int) -> Tensor:
        """Return values of samples in the order of the batch of all ranks, (total,); with `per_rank` the rank's own.

        Args:
            pieces: (positions in the batch, values) for each piece of this rank; further values are not read.
            total: the number of samples of the batch.
        """
        if self.ranks.size == 1 or self.per_rank:
            return torch.cat([values for _, values in pieces])
        placed = pieces[0][1].new_zeros(total)
        for positions, values in pieces:
            placed[positions.to(placed.device)] = values[: len(positions)]
        return self.ranks.sum(placed)

    def with_last(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """Yield (item, whether gradients are averaged after it): after the last one. One rank reads none ahead."""
        if self.ranks.size == 1:
            yield from ((item, True) for item in items)
            return
        iterator = iter(items)
        item = next(iterator)
        for coming in iterator:
            yield item, False
            item = coming
        yield item, True

    def shared(self, source: EvalSource, poll: Callable[[], None]) -> Iterator[Batch]:
        """Yield every n-th batch of an evaluation, for n ranks; poll as often, and at the same points, on each rank."""
        size = self.ranks.size
        if size == 1:
            for batch in source.batches():
                poll()
                yield batch
            return
        rank, every = self.ranks.rank, getattr(source, "every", None)
        own = islice(source.batches(), rank, None, size) if every is None else every(size, rank)
        while True:
            mine = next(own, None)
            if not self.ranks.any(mine is not None):
                return
            poll()
            if mine is not None:
                yield mine

    def total(self, loss: Tensor, sums: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sums of an evaluation over all ranks; a rank without a batch has no `sums` of its own."""
        if self.ranks.size == 1:
            return loss, sums
        first = self.ranks.broadcast({key: x.shape for key, x in sums.items()})  # rank 0 has a batch
        ours = {key: sums.get(key, loss.new_zeros(shape)).double() for key, shape in first.items()}
        return self.ranks.sum(loss), {key: self.ranks.sum(x) for key, x in ours.items()}

    def share_buffers(self, models: list[nn.Module]) -> None:
        """Give all ranks the buffers of rank 0 (running statistics), before the ranks evaluate parts of a set."""
        self.ranks.broadcast_tensors([buffer for model in models for buffer in model.buffers()])

    # ------------------------------------------------------------------------- the optimizer's state

    def state_dict(self, optimizer: SharpnessAware) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the state of rank 0: nothing, or the averages of the other ranks.

        With averages of their own all ranks have to call this method together.
        """
        if not self.per_rank:
            return {}
        found: dict[str, Any] = {"num_ranks": self.ranks.size}
        if self.own_averages and optimizer.own_keys:
            state = optimizer.state_dict()
            keys = optimizer.own_keys
            entries = {i: {k: v for k, v in of.items() if k in keys} for i, of in state["state"].items()}
            found["of_ranks"] = self.ranks.gather({"own": state["param_groups"][0][KEY], "state": entries})
        return found

    def optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of this rank's optimizer out of a checkpoint of all ranks."""
        optimizer: dict[str, Any] = state["optimizer"]
        of_ranks = state.get("of_ranks")
        if not of_ranks:
            return optimizer
        mine = of_ranks[self.ranks.rank]
        own = mine["own"] if self.ranks.size > 1 else {k: mine["own"][k] for k in mine["own"] if k not in RANK_KEYS}
        entries = {i: {**of, **mine["state"].get(i, {})} for i, of in optimizer["state"].items()}
        groups = [{**group, KEY: own} for group in optimizer["param_groups"]]
        return {**optimizer, "state": entries, "param_groups": groups}


RANK_KEYS = ("rank", "num_ranks")  # of the optimizer's own state; a measurement by one process reads rank 0's averages


def cut_of(cfg: TrainConfig, ranks: Ranks, parts: int) -> Cut:
    """Return how a batch is cut into `parts` micro-batches and over the ranks."""
    return Cut(ranks.rank, ranks.size, parts, cfg.perturbation == "per_rank")


def check_cut(cfg: TrainConfig, ranks: Ranks, num_samples: int, batch_size: int, drop_last: bool) -> None:
    """Refuse batches that cannot be cut over the ranks.

    Args:
        cfg: the settings of the training.
        ranks: the ranks of this start.
        num_samples: of the training set.
        batch_size: of all ranks together.
        drop_last: whether an epoch has no smaller last batch.

    Raises:
        ConfigError: a rank would have no samples.
    """
    if ranks.size == 1:
        return
    cut, last = cut_of(cfg, ranks, cfg.accumulate_steps), num_samples % batch_size
    cut.check(batch_size, batch_size, 1)
    if last and not drop_last:
        cut.check(last, batch_size, 1 if cfg.sync_batchnorm else 2)


def check_ranks(cfg: TrainConfig, ranks: Ranks, state: dict[str, Any] | None) -> None:
    """Refuse settings and checkpoints that do not fit the number of ranks.

    Args:
        cfg: the settings of the training.
        ranks: the ranks of this start.
        state: the checkpoint to continue from; None without a checkpoint.

    Raises:
        ConfigError: each rank is to perturb by itself, and there is one rank, or another number than before.
    """
    if cfg.perturbation == "per_rank" and ranks.size == 1:
        allowed = "needs several ranks: torchrun --nproc-per-node 2 launch.py ..., or use synchronised"
        raise ConfigError("train.perturbation", "per_rank", allowed)
    before = (state or {}).get("num_ranks", ranks.size)
    if before != ranks.size:
        allowed = f"the run was started with {before} ranks, each of which perturbs by its own samples: start {before}"
        raise ConfigError("WORLD_SIZE", ranks.size, f"{allowed}, or use another name or force=true")


def _replicated(model: nn.Module, ranks: Ranks) -> nn.Module:
    # find_unused_parameters keeps torch from laying out its buckets anew after the first step. The order in which
    # several ranks are summed follows from the buckets, and a resumed run has to add in the order of the first start.
    wrapper = nn.parallel.DistributedDataParallel
    # torch renames the argument that keeps each rank's running statistics its own; newer versions warn of the old name
    known = inspect.signature(wrapper).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    keywords: dict[str, Any] = {buffers: False}
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    return wrapper(model, device_ids=devices, find_unused_parameters=True, **keywords)
