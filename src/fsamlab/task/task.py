"""What stands between a model and the loop: forward pass, losses of the samples, metrics, and the headline metric.

The training loop knows inputs and targets only through a :class:`Task`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.metrics import Headline


@dataclass(frozen=True)
class Samples:
    """Inputs with their targets, on one device.

    Attributes:
        inputs: (n, ...); for images float32 (n, channels, height, width).
        targets: (n, ...); labels, class probabilities or values, as the task takes them.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Metric:
    """What the name of a metric means.

    Attributes:
        title: in words, for tables and axes.
        higher_is_better: the direction.
        percent: whether the value is a share in 0..1 that is shown in percent.
    """

    title: str
    higher_is_better: bool
    percent: bool = False


class Task(ABC):
    """Defines what a model is trained for. A task has no state: all methods are functions of their arguments.

    Attributes:
        name: what the task is called.
        headline: the name of the metric that stands for the quality of a model; one of `metric_names`.
    """

    name: str
    headline: str

    @property
    @abstractmethod
    def metric_names(self) -> Mapping[str, Metric]:
        """Return the metrics that :meth:`values` returns, and what the names mean; a class attribute will do."""

    def forward(self, model: nn.Module, samples: Samples) -> Any:
        """Return the model's outputs: a tensor, or tensors in a tuple, list or dict."""
        return model(samples.inputs)

    @abstractmethod
    def losses(self, outputs: Any, samples: Samples) -> Tensor:
        """Return the loss of each sample (n,), in the precision of `outputs`, as training minimises the mean of it."""

    def loss(self, outputs: Any, samples: Samples) -> Tensor:
        """Return the mean of :meth:`losses`, a scalar. Override it where one kernel computes the mean."""
        return self.losses(outputs, samples).mean()

    @abstractmethod
    def metrics(self, outputs: Any, samples: Samples) -> dict[str, Tensor]:
        """Return sums over the samples, on the device; outputs come without a graph.

        A sum is a scalar. In evaluation a sum may have the shape (k,); :meth:`values` then gets its means as `KEY/0` to
        `KEY/(k-1)`.
        """

    def values(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics from the means over all samples of what :meth:`metrics` sums; the means themselves."""
        return dict(means)

    def evaluating(self) -> Task:
        """Return the task as evaluation has it: without what changes the loss in training alone.

        The task of the evaluation may count more metrics.
        """
        return self

    def conventions(self) -> dict[str, str | int | float]:
        """Return what a measured loss depends on besides model and samples: it is written beside measured values."""
        return {"loss": self.name}

    @property
    def declaration(self) -> Headline:
        """Return what a run records of the headline metric, so that screens, tables and figures need no task."""
        metric = self.metric_names.get(self.headline, Metric("loss", higher_is_better=False))
        return Headline(self.headline, metric.title, metric.higher_is_better, metric.percent)

    @property
    def higher_is_better(self) -> bool:
        """Return the direction of the headline metric."""
        return self.declaration.higher_is_better

    def is_better(self, value: float, than: float) -> bool:
        """Return whether a value of the headline metric is better than another one; NaN and equal values are not."""
        if math.isnan(than):
            return not math.isnan(value)
        return value > than if self.higher_is_better else value < than


def cast(outputs: Any, dtype: torch.dtype) -> Any:
    """Return outputs of a model with every floating-point tensor in `dtype`."""
    if isinstance(outputs, Tensor):
        return outputs.to(dtype) if outputs.is_floating_point() else outputs
    if isinstance(outputs, Mapping):
        return {key: cast(value, dtype) for key, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        return [cast(value, dtype) for value in outputs]
    return outputs


def detached(outputs: Any) -> Any:
    """Return outputs of a model without their graph."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, Mapping):
        return {key: detached(value) for key, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        return [detached(value) for value in outputs]
    return outputs
