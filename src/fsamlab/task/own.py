"""A task of this package with a loss, metrics or a headline of the user's own."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.config import ConfigError, TaskConfig
from fsamlab.config.import_path import check_call, import_function
from fsamlab.task.task import Metric, Samples, Task

Function = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> a value of each sample (n,)


@dataclass(frozen=True)
class Own(Task):
    """A built-in task in which some parts are the user's: `task.loss`, `task.metrics`, `task.headline`.

    Args:
        base: the task whose other parts stay.
        headline: the metric that chooses the best epoch; one of the base task, one of `own_metrics`, or `loss`.
        loss_name: as `task.loss` has it, with its options; None where the loss is that of the base task.
        loss_function: (outputs, targets) -> losses (n,) or (n, ...); the mean over all dimensions but the first is the
            loss of a sample.
        own_metrics: name -> (outputs, targets) -> values (n,), which are averaged over the samples.
        directions: what the names of `own_metrics` mean.
    """

    base: Task
    headline: str
    loss_name: str | None = None
    loss_function: Function | None = None
    own_metrics: Mapping[str, Function] = field(default_factory=dict)
    directions: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Return the name of the base task."""
        return self.base.name

    @property
    def metric_names(self) -> Mapping[str, Metric]:
        """Return the metrics of the base task and the user's own."""
        return {**self.base.metric_names, **self.directions}

    def forward(self, model: nn.Module, samples: Samples) -> Any:
        """Return the model's outputs."""
        return self.base.forward(model, samples)

    def losses(self, outputs: Any, samples: Samples) -> Tensor:
        """Return the loss of each sample (n,).

        Raises:
            ConfigError: `task.loss` gives another number of losses.
        """
        if self.loss_function is None:
            return self.base.losses(outputs, samples)
        found = self.loss_function(outputs, samples.targets)
        return _of_samples("task.loss", str(self.loss_name), found, samples, "loss")

    def loss(self, outputs: Any, samples: Samples) -> Tensor:
        """Return the mean loss."""
        return self.base.loss(outputs, samples) if self.loss_function is None else super().loss(outputs, samples)

    def metrics(self, outputs: Any, samples: Samples) -> dict[str, Tensor]:
        """Return the sums of the base task and those of the user's metrics.

        Raises:
            ConfigError: a function of `task.metrics` gives another number of values.
        """
        found = self.base.metrics(outputs, samples)
        for name, function in self.own_metrics.items():
            values = function(outputs, samples.targets)
            found[name] = _of_samples("task.metrics", name, values, samples, "value", torch.float64).sum()
        return found

    def values(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of the base task and the user's own."""
        return {**self.base.values(means), **{name: means[name] for name in self.own_metrics}}

    def evaluating(self) -> Task:
        """Return the task with the base task as evaluation has it."""
        return dataclasses.replace(self, base=self.base.evaluating())

    def conventions(self) -> dict[str, str | int | float]:
        """Return the name of the loss, or the conventions of the base task."""
        return self.base.conventions() if self.loss_name is None else {"loss": self.loss_name}


def _of_samples(
    key: str, path: str, found: Any, samples: Samples, what: str, dtype: torch.dtype | None = None
) -> Tensor:
    """Return what a function of the user gave as one value of each sample (n,), the mean over further dimensions."""
    if not isinstance(found, Tensor):
        raise ConfigError(key, path, f"returned a {type(found).__name__}; it must return a tensor, a {what} per sample")
    if found.dim() == 0 or len(found) != len(samples):
        allowed = f"returned shape {tuple(found.shape)} for {len(samples)} samples; it must return a {what} for each"
        raise ConfigError(key, path, f"{allowed} sample, without a mean over the samples")
    found = found if dtype is None else found.to(dtype)
    return found if found.dim() == 1 else found.flatten(1).mean(1)


def with_own_parts(base: Task, cfg: TaskConfig) -> Task:
    """Return a task with the parts that the config names in place of its own; the task itself where it names none.

    Raises:
        ConfigError: a function that cannot be imported or called, or a headline that is no metric.
    """
    function = None if cfg.loss is None else _function("task.loss", cfg.loss, cfg.options)
    own = {path.partition(":")[2]: _function("task.metrics", path, {}) for path in cfg.metrics}
    taken = sorted(own.keys() & {*base.metric_names, "loss"})
    if taken:
        raise ConfigError("task.metrics", cfg.metrics, f"the {base.name} has a metric {taken[0]}; rename the function")
    if function is None and not own and cfg.headline in (None, base.headline):
        return base
    directions = {name: Metric(name.replace("_", " "), cfg.headline != name or cfg.better == "higher") for name in own}
    names = [*base.metric_names, *own, "loss"]
    if cfg.headline is not None and cfg.headline not in names:
        raise ConfigError("task.headline", cfg.headline, f"must be one of {', '.join(names)}")
    options = ", ".join(f"{key}={value}" for key, value in cfg.options.items())
    name = None if cfg.loss is None else cfg.loss + (f"({options})" if options else "")
    return Own(base, cfg.headline or base.headline, name, function, own, directions)


def _function(key: str, path: str, options: Mapping[str, Any]) -> Function:
    """Return the function at `path` with its options; a loss of torch gives the losses of the samples, not their mean.

    A class of modules, as torch.nn.HuberLoss, is built first.
    """
    found = import_function(key, path)
    parameters = inspect.signature(found).parameters
    options = {**({"reduction": "none"} if "reduction" in parameters else {}), **options}
    is_module = isinstance(found, type) and issubclass(found, nn.Module)
    check_call(key, path, found, () if is_module else ("outputs", "targets"), options)
    return found(**options) if is_module else partial(found, **options)
