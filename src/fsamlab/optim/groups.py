"""Parameter groups by the names of a model: which parameters are perturbed, and with which rho."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from fsamlab.checks import ConfigError
from fsamlab.config.perturb import patterns


def parameter_groups(model: nn.Module, perturb: Any, rho: float) -> list[dict[str, Any]]:
    """Return one group for each rho, over all trainable parameters; `perturb` as fsamlab.config.perturb has it.

    Raises:
        ConfigError: a word or a pattern that no parameter of the model matches.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if perturb == "all":
        return [{"params": list(named.values())}]
    radii = _by_pattern(named, perturb, rho) if isinstance(perturb, list) else _by_word(model, named, perturb, rho)
    groups: dict[float, list[Tensor]] = {}
    for name, p in named.items():
        groups.setdefault(radii[name], []).append(p)
    return [{"params": params, "rho": radius} for radius, params in groups.items()]


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
        matching = [name for name in named if fnmatchcase(name, pattern.name)]
        if not any(name not in radii for name in matching):
            why = "patterns above it match all of them" if matching else f"there are {', '.join(list(named)[:4])}, ..."
            raise ConfigError("optimizer.perturb", pattern.name, f"matches no further parameter of this model: {why}")
        for name in matching:
            radii.setdefault(name, pattern.rho)
    return {name: radii.get(name, rho) for name in named}


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: its class, or one that it inherits from, has Norm in its name.

    That holds for the normalisation modules of torch and of timm, whose common classes are private or missing.
    """
    return any("norm" in cls.__name__.lower() for cls in type(module).__mro__)
