"""The measuring context: fixed conventions inside, and no trace of the measurement after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase

from fsamlab.config import BATCHNORM_MODES, one_of

T = TypeVar("T")

NORM_FLAGS = ("track_running_stats", "momentum")


@contextmanager
def measuring(
    model: nn.Module, *, batchnorm: str = "eval", images: Iterable[Tensor] = (), dropout: bool = False
) -> Iterator[None]:
    """Measure `model` under fixed conventions and leave it, and the random state, bitwise as they were.

    Inside: `.grad` is empty, dropout and stochastic depth are off, autocast is off, matrix products are
    in full precision, attention runs on its mathematical kernel (the fused ones have no second derivative),
    and gradients are enabled. Restored afterwards, also after an exception: weights, `.grad`, buffers,
    training flags, the flags of batch norms, random states. The context may be nested, also in other modes
    (`eval` inside `reestimated` takes the statistics that it finds: the re-estimated ones).

    Args:
        batchnorm: `eval` normalises with the running statistics, `batch` with those of each batch (as
            training does), `reestimated` with running statistics taken anew over `images`: their mean over
            the batches, weighted by size. None of them counts a batch. The mode changes curvature tenfold.
        images: batches (b, channels, height, width) for `reestimated`.
        dropout: modules other than norms are in training mode, as training has them: dropout and stochastic depth
            are on. :class:`~fsamlab.diagnostics.objective.Objective` then takes seeds for its masks.

    Raises:
        ConfigError: an unknown mode.
    """
    one_of("batchnorm", batchnorm, BATCHNORM_MODES)
    device = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(_model_restored(model))
        stack.enter_context(random_state_restored())
        stack.enter_context(_exact_kernels(device))
        stack.enter_context(torch.enable_grad())
        model.train(dropout)
        for module in _norms(model):  # whatever an outer context has made of them
            module.eval()
            module.track_running_stats = module.running_mean is not None
        if batchnorm == "reestimated":
            _reestimate(model, images)
        elif batchnorm == "batch":
            for module in _norms(model):
                # Batch norms without tracking take no buffers in; instance norms always do, and move them
                # by `momentum`.
                module.train()
                module.track_running_stats, module.momentum = False, 0.0
        yield


def _norms(model: nn.Module) -> list[_NormBase]:
    return [m for m in model.modules() if isinstance(m, _NormBase)]


@torch.no_grad()
def _reestimate(model: nn.Module, images: Iterable[Tensor]) -> None:
    tracking = [m for m in _norms(model) if m.track_running_stats]
    seen = 0
    for batch in images:
        seen += len(batch)
        for module in tracking:
            module.train()
            module.momentum = len(batch) / seen  # 1 for the first: the old statistics leave no trace
        model(batch)
    if tracking and not seen:
        raise ValueError("batchnorm=reestimated needs images to take the statistics over")
    for module in tracking:
        module.eval()


@contextmanager
def _model_restored(model: nn.Module) -> Iterator[None]:
    weights = [(p, p.detach().clone(), p.grad) for p in model.parameters()]
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    training = [(m, m.training) for m in model.modules()]
    flags = [(m, {name: getattr(m, name) for name in NORM_FLAGS}) for m in _norms(model)]
    for p, _, _ in weights:
        p.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for p, saved, grad in weights:
                p.copy_(saved)
                p.grad = grad
            for module, name, buffer, values in buffers:
                module._buffers[name] = buffer.copy_(values)
        for module, was_training in training:
            module.training = was_training
        for norm, values_of in flags:
            for name, value in values_of.items():
                setattr(norm, name, value)


@contextmanager
def random_state_restored() -> Iterator[None]:
    """Restore the random states of torch, Python and numpy afterwards."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state())
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def _exact_kernels(device: torch.device) -> Iterator[None]:
    """Autocast off, full-precision deterministic products, attention with second derivatives."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # another kernel, taken only where no gradient is needed
    try:
        with (
            _full_precision(),
            _cudnn(enabled=True, benchmark=False, deterministic=True),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _cudnn(**flags: bool) -> Iterator[None]:
    # torch.backends.cudnn.flags also reads `allow_tf32`, which is an error where the newer settings were used.
    saved = {name: getattr(torch.backends.cudnn, name) for name in flags}
    try:
        for name, value in flags.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in saved.items():
            setattr(torch.backends.cudnn, name, value)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products and convolutions in full precision, whichever of torch's settings were used.

    Torch has two sets of settings. The older ones cannot be read where the newer ones differ (a RuntimeError). The
    newer ones are there for each backend and operation, and one that is not set takes the value of its backend, or the
    global value.
    """
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    newer: list[Any] = []
    if hasattr(torch.backends, "fp32_precision"):  # torch 2.9
        newer = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]  # type: ignore[attr-defined]
    values = [setting.fp32_precision for setting in newer]
    matmul = _readable(torch.get_float32_matmul_precision)
    allow_tf32 = _readable(lambda: cudnn.allow_tf32)
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        for setting in newer:
            setting.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if allow_tf32 is not None:
            cudnn.allow_tf32 = allow_tf32
        for setting, value in zip(newer, values, strict=True):
            setting.fp32_precision = "none"
            if setting.fp32_precision != value:  # the value was its own
                setting.fp32_precision = value


def _readable(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RuntimeError:
        return None
