"""Regression: squared error, for one value or several values of each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fsamlab.task.task import Metric, Samples, Task

METRICS: Mapping[str, Metric] = {
    "mse": Metric("mean squared error", higher_is_better=False),
    "r2": Metric("explained share of the variance, R2", higher_is_better=True),
}


@dataclass(frozen=True)
class Regression(Task):
    """Squared error (output - target)^2, the mean over the values of a sample; the headline is `mse`, lower is better.

    Outputs and targets are float (n, values). `r2` is the share of the targets' variance that the model explains,
    1 - mse / variance, both over the same samples and all values together; it is absent where the variance is zero.
    """

    name = "regression"
    headline = "mse"
    metric_names = METRICS

    def losses(self, outputs: Tensor, samples: Samples) -> Tensor:
        """Return the squared error of each sample (n,).

        Raises:
            ValueError: outputs of another shape than the targets: torch would broadcast them.
        """
        if outputs.shape != samples.targets.shape:
            shapes = f"{tuple(outputs.shape)} for targets of shape {tuple(samples.targets.shape)}"
            raise ValueError(f"the model returns outputs of shape {shapes}: they must be equal, (n, values)")
        return (outputs - samples.targets).square().flatten(1).mean(1)

    def metrics(self, outputs: Tensor, samples: Samples) -> dict[str, Tensor]:
        """Return the sums of squared errors, of the targets and of their squares, in float64."""
        targets = samples.targets.double().flatten(1)
        errors = outputs.double().flatten(1) - targets
        return {
            "mse": errors.square().mean(1).sum(),
            "target": targets.mean(1).sum(),
            "target_square": targets.square().mean(1).sum(),
        }

    def values(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return `mse` and `r2`."""
        variance = means["target_square"] - means["target"] ** 2
        found = {"mse": means["mse"]}
        if variance > 1e-12 * means["target_square"] and math.isfinite(variance):
            found["r2"] = 1 - means["mse"] / variance
        return found
