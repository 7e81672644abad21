"""The base optimizer of a variant: SGD, AdamW, or a torch optimizer of any package with its keywords."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from fsamlab.checks import ConfigError, did_you_mean, mapping
from fsamlab.config.import_path import import_function

BUILT_IN = {"sgd": ("momentum", "nesterov"), "adamw": ("betas", "eps")}  # base: the keys that this base alone reads
STATE = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq", "step")}  # what each keeps of a parameter
OF_THE_CONFIG = ("lr", "weight_decay")  # keywords that are keys of every optimizer's config


def import_base(path: str) -> type:
    """Return the optimizer class that `path`, written `package.module:Class`, names.

    Raises:
        ConfigError: there is no such class, or the class is no torch optimizer.
    """
    import torch  # the class needs torch anyway; a composition with the built-in bases does without

    found = import_function("base", path)
    if not isinstance(found, type) or not issubclass(found, torch.optim.Optimizer):
        raise ConfigError("base", path, "must be a subclass of torch.optim.Optimizer")
    return found


def keywords_for(cls: type, path: str, options: Any, lr: float, weight_decay: float) -> dict[str, Any]:
    """Return all keywords of the base, checked against its signature.

    Args:
        cls: the optimizer class.
        path: its import path, for messages.
        options: `optimizer.base_options`.
        lr: `optimizer.lr`.
        weight_decay: `optimizer.weight_decay`.

    Raises:
        ConfigError: a keyword that the class does not have or that is missing, or a weight decay that it cannot make.
    """
    given = mapping("base_options", options, "{betas: [0.9, 0.99]}")
    parameters = inspect.signature(cls).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name in list(parameters)[1:] if parameters[name].kind is not inspect.Parameter.VAR_KEYWORD]
    for name, value in given.items():
        if name in OF_THE_CONFIG:
            raise ConfigError(f"base_options.{name}", value, f"is a key of its own: set optimizer.{name}")
        if name not in names and not open_ended:
            others = [other for other in names if other not in OF_THE_CONFIG]
            near = did_you_mean(name, others) or f"; it has {', '.join(others)}"
            raise ConfigError(f"base_options.{name}", value, f"{path} has no such keyword{near}")
    for name in names:
        needed = parameters[name].default is inspect.Parameter.empty
        if needed and name not in (*given, *OF_THE_CONFIG):
            raise ConfigError(f"base_options.{name}", "null", f"has to be set with base={path}")
    if "weight_decay" not in names and not open_ended:
        if weight_decay:
            raise ConfigError("weight_decay", weight_decay, f"{path} has no weight decay: set optimizer.weight_decay=0")
        return {"lr": lr, **given}
    return {"lr": lr, "weight_decay": weight_decay, **given}


def check_base(path: str, options: Any, lr: float, weight_decay: float) -> None:
    """Refuse a base that cannot be made with these keywords; one is made for a matrix of zeros, to be sure.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    import torch  # see import_base

    cls = import_base(path)
    if runs_its_closure(cls):
        raise ConfigError("base", path, "runs its closure itself, as often as it likes, and can be no base")
    keywords = keywords_for(cls, path, options, lr, weight_decay)
    try:
        cls([torch.zeros(2, 2, requires_grad=True)], **keywords)
    except Exception as error:  # whatever the class makes of a wrong value
        raise made_in_vain(path, keywords, error) from None


def runs_its_closure(optimizer: Any) -> bool:
    """Return whether step() of an optimizer, or of its class, cannot do without a closure (LBFGS)."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def made_in_vain(path: str, keywords: Mapping[str, Any], error: Exception) -> ConfigError:
    """Return the one-line error for a base whose constructor raised."""
    said = " ".join(str(error).split()) or type(error).__name__
    given = ", ".join(f"{name}={value}" for name, value in keywords.items())
    return ConfigError("base", path, f"cannot be made with {given}: {said}")
