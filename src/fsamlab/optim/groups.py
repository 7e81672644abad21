"""Parameter groups by the names of a model: which parameters are perturbed, and with which rho."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fsamlab.checks import ConfigError
from fsamlab.config.perturb import patterns
from fsamlab.optim.layers import lr_scales, matching


def parameter_groups(
    model: nn.Module,
    perturb: Any,
    rho: float,
    weight_decay_on: str = "all",
    lr: float = 0.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Return groups over all trainable parameters, one for each rho, weight decay and lr that there are.

    Args:
        model: whose parameters are grouped by name.
        perturb: `optimizer.perturb`, see fsamlab.config.perturb.
        rho: of the parameters that `perturb` gives no radius of their own.
        weight_decay_on: `all`, or `matrices`: parameters with fewer than two dimensions (biases, and the scales and
            shifts of norms) get a weight decay of 0.
        lr: of the last layer; used with a layer_decay below 1.
        layer_decay: factor of lr from a layer to the one before, see fsamlab.optim.layers.

    Raises:
        ConfigError: a word or a pattern that no parameter of the model matches.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if perturb == "all" and weight_decay_on == "all" and layer_decay == 1:
        return [{"params": list(named.values())}]
    if perturb == "all":
        radii = dict.fromkeys(named, rho)
    elif isinstance(perturb, list):
        radii = _by_pattern(named, perturb, rho)
    else:
        radii = _by_word(model, named, perturb, rho)
    scales = lr_scales(model, layer_decay) if layer_decay != 1 else dict.fromkeys(named, 1.0)
    groups: dict[tuple[float, bool, float], list[Tensor]] = {}
    for name, p in named.items():
        groups.setdefault((radii[name], weight_decay_on == "all" or p.dim() > 1, scales[name]), []).append(p)
    return [
        {
            "params": params,
            "rho": radius,
            **({} if decays else {"weight_decay": 0.0}),
            **({} if layer_decay == 1 else {"lr": lr * scale}),
        }
        for (radius, decays, scale), params in groups.items()
    ]


def _by_word(model: nn.Module, named: dict[str, nn.Parameter], word: str, rho: float) -> dict[str, float]:
    of_norms = {p for m in model.modules() if is_norm(m) for p in m.parameters(recurse=False)}
    chosen = {
        "norm": [name for name, p in named.items() if p in of_norms],
        "no_norm": [name for name, p in named.items() if p not in of_norms],
        "weights": [name for name in named if "weight" in name],
    }[word]
    if not chosen:
        raise ConfigError("optimizer.perturb", word, "this model has no such parameter, so that nothing is perturbed")
    return {name: rho if name in chosen else 0.0 for name in named}


def _by_pattern(named: dict[str, nn.Parameter], perturb: list[Any], rho: float) -> dict[str, float]:
    radii: dict[str, float] = {}
    for pattern in patterns(perturb):
        found = matching("optimizer.perturb", pattern.name, named, "further parameter")
        if radii.keys() >= set(found):
            why = "matches no further parameter of this model: patterns above it match all of them"
            raise ConfigError("optimizer.perturb", pattern.name, why)
        for name in found:
            radii.setdefault(name, pattern.rho)
    return {name: radii.get(name, rho) for name in named}


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: its class, or one that it inherits from, has Norm in its name.

    That holds for the normalisation modules of torch and of timm, whose common classes are private or missing.
    """
    return any("norm" in cls.__name__.lower() for cls in type(module).__mro__)
