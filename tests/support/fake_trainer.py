"""The trainer on fake CUDA tensors: everything is the trainer's own but the backward pass.

There is no backward pass on fake tensors: gradients are put in by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from fsamlab.data.in_memory import Images, InMemoryEval, InMemoryTrain
from fsamlab.data.interface import Data
from fsamlab.models import build_model
from fsamlab.optim import build_optimizer
from fsamlab.task import detached
from fsamlab.train.closures import AscentBatch, Passes
from fsamlab.train.precision import Precision
from fsamlab.train.trainer import Trainer
from support.fake_cuda import Waits, fake_cuda, scaler_on_cuda
from support.runs import compose_tiny

CUDA = torch.device("cuda")
AUGMENTED = ("data.augment.cutout=2", "train.epochs=3", "data.batch_size=8", "train.on_divergence=continue")


def _backward(self: Any, batch: Any, weight: float, averaged: bool = True) -> Any:
    outputs, loss = self.forward(batch, self.task)
    for p in self.optimizer.parameters():
        p.grad = torch.ones_like(p)
    return detached(outputs), loss.detach()


@contextmanager
def fake_training() -> Iterator[tuple[Waits, pytest.MonkeyPatch]]:
    """Make trainers on fake tensors work inside the context; yield the counter of what the host waits for."""
    with fake_cuda(), Waits() as counter, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passes, "backward", _backward)
        patch.setattr(Precision, "autocast", lambda self: nullcontext())  # autocast wants a real GPU
        patch.setattr(torch.nn.Module, "to", lambda self, **_: self)  # fake parameters cannot be replaced
        yield counter, patch


FITTED = {"sam_batch": ["optimizer.ascent_batch_size=12"]}  # what a variant needs to work on the 24 samples


def trainer_on_cuda(name: str, *overrides: str) -> Any:
    """Return a trainer of three epochs on 24 samples."""
    config = compose_tiny(f"optimizer={name}", *AUGMENTED, *FITTED.get(name, []), *overrides)
    with torch.device("cuda"):
        model = build_model(config.model, 4, 3)
    images = Images(torch.zeros(24, 3, 8, 8, dtype=torch.uint8), torch.zeros(24, dtype=torch.int64))
    held_out = InMemoryEval(images, config.data, CUDA)
    data = Data(InMemoryTrain(images, config.data, 0, CUDA), held_out, held_out, 4, 3, {})
    cfg = config.optimizer
    scaler = scaler_on_cuda() if config.train.precision == "fp16" else None
    clip = config.train.max_grad_norm
    optimizer = build_optimizer(cfg, model, seed=0, max_grad_norm=clip, total_steps=9, grad_scaler=scaler)
    ascent = AscentBatch(cfg.ascent_batch_size, cfg.ascent_share, bool(cfg.ascent_nested))
    return Trainer(model, optimizer, data, config.train, epochs=3, seed=0, device=CUDA, ascent_batch=ascent)
