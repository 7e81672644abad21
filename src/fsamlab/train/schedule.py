"""Learning-rate factors as pure functions of the step: nothing to save, nothing to lose on resume."""

from __future__ import annotations

import math

from fsamlab.config import TrainConfig


def lr_factor(cfg: TrainConfig, step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the factor on the base learning rate for optimizer step `step` (0-based).

    Cosine falls from 1 at the end of the warm-up to 0 at `total_steps` (SGDR, 1608.03983, eq. 5,
    without restarts), per iteration; `step` multiplies by gamma at each milestone, a share of training.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if cfg.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if cfg.schedule == "step":
        return cfg.gamma ** sum(step >= share * total_steps for share in cfg.milestones)
    return 1.0
