"""BatchNorm with the statistics of the batch of all ranks (`train.sync_batchnorm`).

torch's SyncBatchNorm replaces modules, works on GPUs alone, and communicates in every pass in training mode: also in a
measurement, which rank 0 makes alone. Here the function that all BatchNorm modules call is exchanged, and only inside
the passes of a training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Sum(torch.autograd.Function):
    """The sum over the ranks; the gradient of each rank's term is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class SynchronisedBatchNorm(TorchFunctionMode):
    """A context in which `F.batch_norm` in training mode takes mean and variance over the samples of all ranks.

    Args:
        counts: False where this rank's samples have weight 0 and must not change the statistics.
    """

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.share = 1.0 if counts else 0.0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or :meth:`batch_norm` in its place."""
        if func is F.batch_norm:
            return self.batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Return what `F.batch_norm` returns for the samples of all ranks; the arguments are those of that function."""
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        others = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        own = x.new_full((1,), x.numel() / x.shape[1] * self.share)
        sums = _Sum.apply(torch.cat([x.sum(others) * self.share, own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        var = _Sum.apply((centred * centred).sum(others) * self.share) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
        out = centred * torch.rsqrt(var + eps).view(shape)
        if weight is not None:
            out = out * weight.view(shape)
        if bias is not None:
            out = out + bias.view(shape)
        return out.to(input.dtype)
