"""Whole steps as CUDA graphs: `train.cuda_graph`.

The host queues a step as one graph in place of some hundred kernels, one by one. The kernels of a graph read and write
the addresses of the step that the graph was captured from: batches are copied into the tensors of the captured step,
and the optimizer keeps its state at its addresses (fsamlab.optim.capturable).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fsamlab.config import ConfigError, TrainConfig
from fsamlab.data import Batch
from fsamlab.optim import SharpnessAware
from fsamlab.optim.capturable import Capturable
from fsamlab.train.work import Work

log = logging.getLogger(__name__)

WARM_UP = 3  # steps of a kind that run as usual first, in which libraries choose their kernels
SETTLED = 20  # steps of a kind after which the state of the optimizer has its form

MetricSums = dict[str, list[Tensor]]  # metric of the task -> sums over the samples of each part of the batch
Made = tuple[Tensor, MetricSums, Work]  # the loss that the optimizer returns, metrics of the first pass, work done


@dataclass
class Inputs:
    """The batches of a step: the descent batch as the passes see it, and the ascent batch of variants with one.

    Attributes:
        step: the global step; a captured step does not read it.
    """

    batch: Batch
    other: Batch | None
    step: int

    def tensors(self) -> list[Tensor]:
        """Return inputs, targets and positions of the batches."""
        batches = [self.batch] if self.other is None else [self.batch, self.other]
        return [x for batch in batches for x in (batch.inputs, batch.targets, batch.indices)]

    def sizes(self) -> Hashable:
        """Return what decides the kernels of a step: shapes and types."""
        return tuple((x.shape, x.dtype, x.stride()) for x in self.tensors())

    def copy(self) -> Inputs:
        """Return copies, with memory of their own."""
        copies = iter([x.clone() for x in self.tensors()])
        batch = Batch(next(copies), next(copies), next(copies))
        other = None if self.other is None else Batch(next(copies), next(copies), next(copies))
        return Inputs(batch, other, self.step)

    def load(self, inputs: Inputs) -> None:
        """Take the values of other batches of the same sizes."""
        for mine, new in zip(self.tensors(), inputs.tensors()):
            mine.copy_(new)


class Recorder(Protocol):
    """Captures what a function runs on a device."""

    def warming_up(self) -> AbstractContextManager[Any]:
        """Return the context of a step that runs as usual."""

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Return a function that runs the kernels of `work`, and the result of `work`, whose tensors it fills."""


class CudaGraphs:
    """The recorder of a GPU. All graphs share their memory: no step needs what another step has left there."""

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.side = torch.cuda.Stream(device)

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Run a step on a stream of its own, as torch's documentation of graphs asks for."""
        here = torch.cuda.current_stream()
        self.side.wait_stream(here)
        with torch.cuda.stream(self.side):
            yield
        here.wait_stream(self.side)

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Capture `work`; no kernel runs."""
        graph = torch.cuda.CUDAGraph()
        # other threads of the process (workers that pin batches) may call CUDA in the meantime
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result


def check_graphs(cfg: TrainConfig, device: torch.device, num_ranks: int) -> None:
    """Refuse `train.cuda_graph` on a device without graphs, and with several ranks.

    Raises:
        ConfigError: says why.
    """
    if cfg.cuda_graph and device.type != "cuda":
        raise ConfigError("train.cuda_graph", True, "needs a GPU, and this run is on the CPU; use false")
    if cfg.cuda_graph and num_ranks > 1:
        raise ConfigError("train.cuda_graph", True, f"is for one process, and this run has {num_ranks}; use false")


RECORDER: Callable[[torch.device], Recorder] = CudaGraphs  # tests on the CPU have another one


@dataclass
class _Graph:
    replay: Callable[[], None]
    inputs: Inputs
    made: Made
    scalars: dict[str, Tensor]


class GraphedSteps:
    """Makes steps by graphs, one for each kind of step; a kind is captured once a few of its steps ran as usual.

    Batches of the size that most steps have are captured, and the smaller last batch of an epoch runs as usual.

    Args:
        optimizer: of the training.
        work: makes one optimizer step on its argument.
        device: of the model, a GPU.
    """

    def __init__(self, optimizer: SharpnessAware, work: Callable[[Inputs], Made], device: torch.device) -> None:
        self.recorder = RECORDER(device)
        self.steps, self.work = Capturable(optimizer), work
        self._sizes: Counter[Hashable] = Counter()
        self._seen: Counter[Hashable] = Counter()
        self._unsettled: dict[Hashable, list[Any]] = {}
        self._graphs: dict[Hashable, _Graph] = {}

    def make(self, inputs: Inputs) -> Made:
        """Make one step; its tensors hold until the next step.

        Raises:
            ConfigError: torch cannot capture the step, or the optimizer's state has another form after each step.
        """
        self.steps.before_step()
        kind, sizes = self.steps.kind(), inputs.sizes()
        self._sizes[sizes] += 1
        key = (kind, sizes)
        graph = self._graphs.get(key)
        if graph is None and kind is not None and self._is_ready(key, sizes):
            graph = self._graphs[key] = self._captured(inputs)
            log.info("step %d: captured as CUDA graph number %d", self.steps.optimizer.num_steps, len(self._graphs))
        if graph is None:
            return self._as_usual(inputs, key)
        graph.inputs.load(inputs)
        graph.replay()
        self.steps.was_replayed(graph.scalars)
        return graph.made

    def _is_ready(self, key: Hashable, sizes: Hashable) -> bool:
        if self._seen[key] < WARM_UP or self._sizes[sizes] < max(self._sizes.values()):
            return False
        unsettled = self._unsettled[key]
        if unsettled and self._seen[key] >= SETTLED:
            whose, which, entry = unsettled[0]
            allowed = f"needs a state at fixed addresses, and {entry} ({whose} {which}) changes its form in each step"
            raise ConfigError("train.cuda_graph", True, f"{allowed}; use false")
        return not unsettled

    def _as_usual(self, inputs: Inputs, key: Hashable) -> Made:
        with self.recorder.warming_up():
            result = self.work(inputs)
            self._unsettled[key] = self.steps.settle()
        self._seen[key] += 1
        return result

    def _captured(self, inputs: Inputs) -> _Graph:
        own = inputs.copy()

        def whole() -> tuple[Made, dict[str, Tensor]]:
            made = self.work(own)
            unsettled = self.steps.settle()
            if unsettled:
                raise RuntimeError(f"the state has another form after a captured step: {unsettled[0]}")
            return made, dict(self.steps.optimizer.scalars)

        try:
            with self.steps.capturing():
                replay, (made, scalars) = self.recorder.capture(whole)
        except RuntimeError as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError("train.cuda_graph", True, f"a step cannot be captured: {why}; use false") from error
        return _Graph(replay, own, made, scalars)
