"""Trainers of tiny runs, one step at a time, and a tiny network with everything that a second pass can get wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from support.runs import Rows, build_trainer, compose_tiny

SMALL = ("data.num_samples=112", "data.val_size=16", "data.test_size=16", "data.batch_size=16")  # five steps an epoch


def trainer_of(variant: str, *overrides: str, **train: Any) -> Any:
    """Return the trainer of a variant; `train` are settings below train, which need no composition of their own."""
    config = compose_tiny(f"optimizer={variant}", *SMALL, *overrides)
    trainer = build_trainer(dataclasses.replace(config, train=dataclasses.replace(config.train, **train)))
    trainer._observer = Rows()
    return trainer


def step(trainer: Any, k: int) -> Tensor:
    """Make step k as the loop does, without rows; return the loss."""
    batch = next(iter(trainer.data.train.batches(*divmod(k, trainer.steps_per_epoch))))
    loss: Tensor = trainer.stepper.make(batch, k)[0]
    if trainer.averaged is not None:
        trainer.averaged.update(trainer.model, k + 1)
    return loss


def after(num_steps: int, trainer: Any) -> Any:
    """Return the trainer after its first steps."""
    for k in range(num_steps):
        step(trainer, k)
    return trainer


def weights(trainer: Any) -> Tensor:
    """Return all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def same_state(a: Any, b: Any) -> bool:
    """Return whether two trainers have the same bits in weights and buffers, under the same keys."""
    first, second = a.model.state_dict(), b.model.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def network_with_dropout(num_classes: int, in_channels: int) -> nn.Sequential:
    """Return a network with a convolution, BatchNorm and dropout; for model.import_path."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, num_classes),
    )


def network_without_dropout(num_classes: int, in_channels: int) -> nn.Module:
    """Return the same network without dropout."""
    model = network_with_dropout(num_classes, in_channels)
    model[3].p = 0.0  # type: ignore[index, assignment]
    return model
