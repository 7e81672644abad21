"""Factors of the learning rate as pure functions of the step: there is no state to save or to lose on resume."""

from __future__ import annotations

import math

from fsamlab.config import TrainConfig


def lr_factor(cfg: TrainConfig, step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the factor of the base learning rate for optimizer step `step` (0-based).

    The warm-up is linear. Cosine then falls, at every step, from 1 to 0 at `total_steps` (SGDR, arXiv 1608.03983,
    equation 5, without restarts). `schedule=step` multiplies by gamma at each milestone, which is a share of the
    training.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if cfg.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if cfg.schedule == "step":
        return cfg.gamma ** sum(step >= share * total_steps for share in cfg.milestones)
    return 1.0
