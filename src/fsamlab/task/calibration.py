"""Calibration: whether a classifier that says "90 %" is right in 90 % of such cases."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BINS = 15


def calibration_gaps(logits: Tensor, is_right: Tensor) -> Tensor:
    """Return the sum of (right - confidence) over the samples of each bin of confidence, float64 (BINS,).

    The confidence of a sample is the largest class probability, the softmax of `logits`. Bin i of M = BINS holds the
    confidences in ((i - 1) / M, i / M], as in section 2 of 1706.04599. The sums of several batches add up.

    Args:
        logits: (n, classes).
        is_right: bool (n,); whether the class of the largest logit is the class of the sample.
    """
    confidence = logits.double().softmax(1).amax(1)
    bins = (confidence * BINS).ceil().clamp(1, BINS)
    edges = torch.arange(1, BINS + 1, dtype=bins.dtype, device=bins.device)
    # A product in place of an indexed sum: the sums on a GPU are the same in each call, and a confidence that is not a
    # number stays visible, because it makes all sums not a number.
    return ((is_right.double() - confidence)[:, None] * (bins[:, None] == edges)).sum(0)


def calibration_error(mean_gaps: Iterable[float]) -> float:
    """Return the expected calibration error from the sums of :func:`calibration_gaps`, divided by the samples.

    The error is sum_i (n_i / n) |accuracy_i - confidence_i| over the bins (1706.04599, equation 3). An empty bin adds
    nothing.
    """
    return sum(abs(gap) for gap in mean_gaps)
