"""Classification: cross-entropy with label smoothing, for labels or for probabilities of the classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fsamlab.task.calibration import calibration_error, calibration_gaps
from fsamlab.task.task import Metric, Samples, Task

ACC1 = Metric("accuracy", higher_is_better=True, percent=True)
ACC5 = Metric("top-5 accuracy", higher_is_better=True, percent=True)
ECE = Metric("calibration error", higher_is_better=False, percent=True)
GAPS = "ece/gaps"  # the slash keeps the name apart from a metric of the user, which has the name of a function


@dataclass(frozen=True)
class Classification(Task):
    """Cross-entropy in nats on logits (n, classes); the headline is `acc1`, the share of right answers.

    Targets are labels int64 (n,), or probabilities of the classes float (n, classes), as mixing two samples gives
    them; the right answer is then the class of the highest probability.

    Args:
        label_smoothing: alpha; the target becomes (1 - alpha) target + alpha / classes (1512.00567, section 7).
        top5: whether `acc5` is counted: the right answer is among the five highest logits.
        calibration: whether `ece` is counted, the expected calibration error; :meth:`evaluating` sets this.
    """

    name = "classification"
    headline = "acc1"

    label_smoothing: float = 0.0
    top5: bool = False
    calibration: bool = False

    @property
    def metric_names(self) -> Mapping[str, Metric]:
        """Return `acc1`, and `acc5` and `ece` where they are counted."""
        found = {"acc1": ACC1}
        if self.top5:
            found["acc5"] = ACC5
        if self.calibration:
            found["ece"] = ECE
        return found

    def losses(self, outputs: Tensor, samples: Samples) -> Tensor:
        """Return the cross-entropy of each sample in nats (n,)."""
        return self._cross_entropy(outputs, samples, "none")

    def loss(self, outputs: Tensor, samples: Samples) -> Tensor:
        """Return the mean cross-entropy in nats, by one kernel."""
        return self._cross_entropy(outputs, samples, "mean")

    def _cross_entropy(self, outputs: Tensor, samples: Samples, reduction: str) -> Tensor:
        targets = samples.targets
        if targets.is_floating_point():
            targets = targets.to(outputs.dtype)
        return F.cross_entropy(outputs, targets, reduction=reduction, label_smoothing=self.label_smoothing)

    def metrics(self, outputs: Tensor, samples: Samples) -> dict[str, Tensor]:
        """Return the numbers of right answers, and the gaps of the bins of confidence."""
        targets = samples.targets
        right = targets.argmax(1) if targets.is_floating_point() else targets
        is_right = outputs.argmax(1) == right
        found = {"acc1": is_right.sum()}
        if self.top5:
            highest = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
            found["acc5"] = (highest == right[:, None]).sum()
        if self.calibration:
            found[GAPS] = calibration_gaps(outputs, is_right)
        return found

    def values(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the shares of right answers, and `ece` from the gaps of the bins."""
        found = {key: value for key, value in means.items() if not key.startswith(GAPS)}
        if self.calibration:
            found["ece"] = calibration_error(value for key, value in means.items() if key.startswith(GAPS))
        return found

    def evaluating(self) -> Classification:
        """Return the task without label smoothing, with the calibration error."""
        return dataclasses.replace(self, label_smoothing=0.0, calibration=True)

    def conventions(self) -> dict[str, str | int | float]:
        """Return the label smoothing, which is part of the loss that is measured."""
        return {"label_smoothing": self.label_smoothing}
