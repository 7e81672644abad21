"""Activation checkpointing: the blocks of a network forget their activations, and the backward pass makes them again.

Chen et al. 2016, arXiv 1604.06174; here by torch.utils.checkpoint. Networks of timm bring the same switch themselves,
``set_grad_checkpointing(enable)``.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from fsamlab.config import ConfigError
from fsamlab.models.pyramidnet import PyramidBlock, PyramidBottleneck
from fsamlab.models.wide_resnet import WideBlock

BLOCKS = (BasicBlock, Bottleneck, WideBlock, PyramidBlock, PyramidBottleneck)


def make_checkpointable(model: nn.Module, name: str) -> None:
    """Give a network the method ``set_grad_checkpointing(enable)``, if it has none. Keys of the state stay as they are.

    Args:
        model: any network.
        name: for the message.

    Raises:
        ConfigError: the network has no blocks that this package knows, or refuses the switch.
    """
    if not hasattr(model, "set_grad_checkpointing"):
        blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
        if not blocks:
            allowed = f"model={name} has no blocks to make again, and no method set_grad_checkpointing; leave it false"
            raise ConfigError("train.activation_checkpointing", True, allowed)
        for block in blocks:
            block.recompute = False
            # A copy of the network gets a method of its own block.
            block.forward = MethodType(_block_forward, block)  # type: ignore[method-assign]
        model.set_grad_checkpointing = MethodType(_switch, model)  # type: ignore[assignment]
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
        model.set_grad_checkpointing(False)  # type: ignore[operator]
    except (AssertionError, NotImplementedError) as error:  # what networks of timm raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError("train.activation_checkpointing", True, f"model={name} refuses ({reason})") from None


def _switch(self: nn.Module, enable: bool = True) -> None:
    for module in self.modules():
        if isinstance(module, BLOCKS):
            module.recompute = enable


def _block_forward(self: Any, *inputs: Any) -> Any:
    forward = type(self).forward
    if self.recompute and torch.is_grad_enabled():
        # The random state is kept for the second time, so dropout draws the same masks.
        return checkpoint(forward, self, *inputs, use_reentrant=False)
    return forward(self, *inputs)
