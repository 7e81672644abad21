"""The layers of a model: those that are frozen, and a learning rate that falls from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fsamlab.checks import ConfigError


def matching(key: str, pattern: str, names: Collection[str], what: str = "parameter") -> list[str]:
    """Return the names that a pattern matches, as the shell matches file names; `what` names them in the message.

    Raises:
        ConfigError: the pattern matches none.
    """
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = ", ".join(list(names)[:4])
        raise ConfigError(key, pattern, f"matches no {what} of this model: there are {near}, ...")
    return found


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Set requires_grad to False for each parameter whose name matches a pattern, as the shell matches file names.

    The running statistics of a batch norm with frozen parameters go on following the batches in training mode.

    Raises:
        ConfigError: a pattern matches no parameter, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        for name in matching("optimizer.freeze", pattern, named):
            named[name].requires_grad_(False)
    if patterns and not any(p.requires_grad for p in named.values()):
        raise ConfigError("optimizer.freeze", list(patterns), "freezes all parameters of this model: none would train")


def lr_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return {name of a parameter: factor of lr}: layer_decay^k, k the number of layers above the parameter's own.

    Raises:
        ConfigError: the model has one layer.
    """
    layers = layers_of(model)
    last = max(layers.values())
    if last == 0:
        raise ConfigError("optimizer.layer_decay", layer_decay, "has no effect in a model of one layer; leave it at 1")
    return {name: layer_decay ** (last - layer) for name, layer in layers.items()}


def layers_of(model: nn.Module) -> dict[str, int]:
    """Return {name of a parameter: number of its layer}, 0 at the input.

    A timm model says so itself (`group_matcher`; a ViT: the embedding, one layer for each block, the head). In other
    models, the modules with a parameter of two dimensions or more are the layers, in the order of registration; norms
    and others belong to the layer before.
    """
    matcher: Callable[..., Any] | None = getattr(model, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters  # slow to import, and most runs use no model of timm

        found: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
        return found
    layers: dict[str, int] = {}
    layer = -1
    known = dict(model.named_parameters())  # a shared parameter under its first name alone
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}".lstrip("."): p for name, p in module.named_parameters(recurse=False)}
        if any(p.dim() > 1 for name, p in own.items() if name in known):
            layer += 1
        layers.update(dict.fromkeys((name for name in own if name in known), max(layer, 0)))
    return layers
