"""The sharpness-aware family, usable in anyone's loop.

    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = FSAM(base, rho=0.2, model=model)
    def closure():
        optimizer.zero_grad(); loss = criterion(model(x), y); loss.backward(); return loss
    loss = optimizer.step(closure)

Each factory takes a base optimizer, or parameters and SGD's keywords. What else it takes is
:class:`SharpnessAware`'s: model, every, total_steps, same_rng, seed, max_grad_norm, ...
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fsamlab.axes import Pass
from fsamlab.config import OptimizerConfig
from fsamlab.config.base import import_base, keywords_for, made_in_vain
from fsamlab.optim.groups import parameter_groups
from fsamlab.optim.guards import frozen_batchnorm
from fsamlab.optim.layers import freeze
from fsamlab.optim.sample_closure import SampleClosure
from fsamlab.optim.sharpness_aware import SharpnessAware

__all__ = [
    "ASAM",
    "BASES",
    "FASAM",
    "FSAM",
    "SAM",
    "Pass",
    "RandomSAM",
    "SAMComponent",
    "SAMFull",
    "SAMFullEMA",
    "SAMNoise",
    "SAMdb",
    "SampleClosure",
    "SharpnessAware",
    "build_optimizer",
    "frozen_batchnorm",
]

log = logging.getLogger(__name__)

SGD_KEYWORDS = ("lr", "momentum", "weight_decay", "nesterov", "dampening")


def _build(params_or_base: Any, keywords: dict[str, Any], **choices: Any) -> SharpnessAware:
    base = params_or_base
    if not isinstance(base, Optimizer):
        base = torch.optim.SGD(base, **{k: keywords.pop(k) for k in SGD_KEYWORDS if k in keywords})
    return SharpnessAware(base, **{**choices, **keywords})


def SAM(params_or_base: Any, rho: float = 0.05, **keywords: Any) -> SharpnessAware:
    """SAM (arXiv 2010.01412): perturb along the batch gradient."""
    return _build(params_or_base, keywords, rho=rho)


def ASAM(params_or_base: Any, rho: float = 0.5, eta: float = 0.01, **keywords: Any) -> SharpnessAware:
    """ASAM (arXiv 2102.11600), form `official`, which needs model=; `adaptive_form="all"` is the popular port."""
    choices = {"metric": "adaptive", "eta": eta, "adaptive_form": "official"}
    return _build(params_or_base, keywords, rho=rho, **choices)


def FSAM(
    params_or_base: Any, rho: float = 0.2, sigma: float = 1.0, lmbda: float = 0.9, **keywords: Any
) -> SharpnessAware:
    """F-SAM (arXiv 2403.12350): perturb along what the EMA of past gradients does not explain."""
    choices = {"component": "subtract", "reference": "ema"}
    return _build(params_or_base, keywords, rho=rho, sigma=sigma, lmbda=lmbda, **choices)


def FASAM(
    params_or_base: Any,
    rho: float = 0.5,
    sigma: float = 1.0,
    lmbda: float = 0.9,
    eta: float = 0.01,
    **keywords: Any,
) -> SharpnessAware:
    """F-SAM's direction in ASAM's metric."""
    choices = {"component": "subtract", "reference": "ema", "metric": "adaptive", "adaptive_form": "official"}
    return _build(params_or_base, keywords, rho=rho, sigma=sigma, lmbda=lmbda, eta=eta, **choices)


def SAMFull(params_or_base: Any, rho: float = 0.05, full_every_steps: int = 1, **keywords: Any) -> SharpnessAware:
    """Perturb along the gradient over the full training set; step() takes an ascent_closure over it."""
    return _build(params_or_base, keywords, rho=rho, ascent="full", full_every_steps=full_every_steps)


def SAMComponent(params_or_base: Any, rho: float = 0.05, full_every_steps: int = 1, **keywords: Any) -> SharpnessAware:
    """Perturb along the batch gradient's projection on the full gradient; takes a reference_closure.

    An addition to the paper, whose SAM-full goes along the whole full gradient (:func:`SAMFull`).
    """
    choices = {"component": "project_on", "reference": "full", "full_every_steps": full_every_steps}
    return _build(params_or_base, keywords, rho=rho, **choices)


def SAMNoise(params_or_base: Any, rho: float = 0.05, full_every_steps: int = 1, **keywords: Any) -> SharpnessAware:
    """Perturb along the batch gradient without that projection (Figure 1); takes a reference_closure."""
    choices = {"component": "project_out", "reference": "full", "full_every_steps": full_every_steps}
    return _build(params_or_base, keywords, rho=rho, **choices)


def SAMFullEMA(params_or_base: Any, rho: float = 0.2, lmbda: float = 0.9, **keywords: Any) -> SharpnessAware:
    """Perturb along the EMA itself, the current gradient in it: SAM-full with an estimated full gradient."""
    choices = {"component": "reference", "reference": "ema", "order": "paper"}
    return _build(params_or_base, keywords, rho=rho, lmbda=lmbda, **choices)


def SAMdb(params_or_base: Any, rho: float = 0.05, **keywords: Any) -> SharpnessAware:
    """Perturb along another batch's gradient; step() takes an ascent_closure on it (Figures 2b, 2c)."""
    return _build(params_or_base, keywords, rho=rho, ascent="other_batch")


def RandomSAM(params_or_base: Any, rho: float = 0.05, **keywords: Any) -> SharpnessAware:
    """Perturb along a Gaussian direction, a function of (seed, step)."""
    return _build(params_or_base, keywords, rho=rho, ascent="gaussian")


def _sgd(params: Any, cfg: OptimizerConfig) -> Optimizer:
    keywords = {"lr": cfg.lr, "momentum": cfg.momentum, "weight_decay": cfg.weight_decay, "nesterov": cfg.nesterov}
    return torch.optim.SGD(params, fused=True, **keywords)  # type: ignore[arg-type]


def _adamw(params: Any, cfg: OptimizerConfig) -> Optimizer:
    betas = (cfg.betas[0], cfg.betas[1])
    return torch.optim.AdamW(params, lr=cfg.lr, betas=betas, eps=cfg.eps, weight_decay=cfg.weight_decay, fused=True)


SGD_SIZED_LR = 0.03
BASES: dict[str, Callable[[Any, OptimizerConfig], Optimizer]] = {"sgd": _sgd, "adamw": _adamw}


def _imported(params: Any, cfg: OptimizerConfig) -> Optimizer:
    """Return a base from another package.

    Raises:
        ConfigError: the class refuses these parameters (some take matrices alone) or their number of groups.
    """
    cls = import_base(cfg.base)
    keywords = keywords_for(cls, cfg.base, cfg.base_options, cfg.lr, cfg.weight_decay)
    try:
        made: Optimizer = cls(params, **keywords)
    except Exception as error:  # whatever the class makes of the model's parameters
        raise made_in_vain(cfg.base, keywords, error).under("optimizer.") from None
    return made


def build_optimizer(
    cfg: OptimizerConfig,
    model: nn.Module,
    seed: int,
    max_grad_norm: float | None = None,
    total_steps: int | None = None,
    grad_scaler: torch.amp.GradScaler | None = None,
) -> SharpnessAware:
    """Return the variant that a config describes, over all trainable parameters of `model`.

    `total_steps` is the length of the training, which `optimizer.start` and other shares of training refer to.
    `optimizer.weight_decay_on` says on which of them weight decay acts, `optimizer.perturb` which are perturbed,
    `optimizer.freeze` which are not trained (their requires_grad becomes False), `optimizer.layer_decay` how lr falls
    towards the input. `grad_scaler` is the scaler that the losses of the closures go through.
    """
    if cfg.base == "adamw" and cfg.lr >= SGD_SIZED_LR:
        log.warning("optimizer.lr=%g with optimizer.base=adamw: that is a rate for SGD; AdamW's is about 1e-3", cfg.lr)
    freeze(model, cfg.freeze or [])
    groups = parameter_groups(model, cfg.perturb, cfg.rho, cfg.weight_decay_on, cfg.lr, cfg.layer_decay)
    base = BASES.get(cfg.base, _imported)(groups, cfg)
    chosen = cfg.to_build()
    parameters = {name: cfg.value(name) for choice in chosen.values() for name in choice.of_the_optimizer()}
    # Configs of former versions may have same_rng where the ascent has no clean pass; it had no effect.
    same_rng = cfg.same_rng and cfg.chosen().ascent.has_clean_loss
    settings: dict[str, Any] = {"rho": cfg.rho, "floor": cfg.floor, "same_rng": same_rng, **chosen, **parameters}
    settings.update(model=model, seed=seed, max_grad_norm=max_grad_norm, total_steps=total_steps)
    settings.update(grad_scaler=grad_scaler)
    return SharpnessAware(base, **settings)
