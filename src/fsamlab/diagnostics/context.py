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

    Inside the context `.grad` is empty, dropout, stochastic depth and autocast are off, matrix products are in full
    precision, attention runs on its mathematical kernel (the fused kernels have no second derivative), and gradients
    are enabled. Afterwards, also after an exception, the context restores weights, `.grad`, buffers, training flags,
    the flags of batch norms, and random states. Contexts may be nested, also with different modes: `eval` inside
    `reestimated` uses the re-estimated statistics.

    Args:
        model: the network.
        batchnorm: `eval` normalises with the running statistics; `batch` with the statistics of each batch, as training
            does; `reestimated` with running statistics estimated anew over `images`, as their mean over the batches,
            weighted by size. No mode changes the model's count of batches. The mode changes curvature tenfold.
        images: batches (b, channels, height, width) for `reestimated`.
        dropout: keep modules other than norms in training mode, so that dropout and stochastic depth are on.
            :class:`~fsamlab.diagnostics.objective.Objective` then takes seeds for the masks.

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
        for module in _norms(model):  # an outer context may have changed them
            module.eval()
            module.track_running_stats = module.running_mean is not None
        if batchnorm == "reestimated":
            _reestimate(model, images)
        elif batchnorm == "batch":
            for module in _norms(model):
                # With tracking off a batch norm does not read its buffers. An instance norm always updates its own, by
                # `momentum`, so momentum 0 keeps them.
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
            module.momentum = len(batch) / seen  # 1 for the first batch, so the old statistics have no weight
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
    """Turn autocast off, make products deterministic and full-precision, and attention twice differentiable."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a different kernel, used only if no gradient is needed
    try:
        with (
            products_in("ieee"),
            _cudnn(enabled=True, benchmark=False, deterministic=True),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _cudnn(**flags: bool) -> Iterator[None]:
    # not torch.backends.cudnn.flags: it reads `allow_tf32`, an error if the newer precision settings were used
    saved = {name: getattr(torch.backends.cudnn, name) for name in flags}
    try:
        for name, value in flags.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in saved.items():
            setattr(torch.backends.cudnn, name, value)


@contextmanager
def products_in(kind: str) -> Iterator[None]:
    """Compute products and convolutions of float32 in full precision (`ieee`) or, on a GPU, in `tf32`.

    Afterwards the settings are as before, whichever of torch's two sets of settings was used.
    The older settings cannot be read if the newer settings differ (a RuntimeError). The newer settings exist for each
    backend and operation; a setting that was not set has the value of its backend, or the global value.
    """
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    of_gpus: list[Any] = []
    newer: list[Any] = []
    if hasattr(torch.backends, "fp32_precision"):  # torch 2.9
        of_gpus = [cuda.matmul, cudnn.conv, cudnn.rnn]  # type: ignore[attr-defined]
        newer = [*of_gpus, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]  # type: ignore[attr-defined]
    values = [setting.fp32_precision for setting in newer]
    matmul = _readable(torch.get_float32_matmul_precision)
    allow_tf32 = _readable(lambda: cudnn.allow_tf32)
    try:
        torch.set_float32_matmul_precision("highest" if kind == "ieee" else "high")
        cudnn.allow_tf32 = kind == "tf32"
        for setting in newer:
            setting.fp32_precision = kind if setting in of_gpus else "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if allow_tf32 is not None:
            cudnn.allow_tf32 = allow_tf32
        for setting, value in zip(newer, values, strict=True):
            setting.fp32_precision = "none"
            if setting.fp32_precision != value:  # the value was set here, not inherited
                setting.fp32_precision = value


def _readable(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RuntimeError:
        return None
