"""A training by several ranks."""

from __future__ import annotations

from fsamlab.config import ConfigError, TrainConfig
from fsamlab.ranks import Ranks


def check_ranks(cfg: TrainConfig, ranks: Ranks) -> None:
    """Refuse settings that do not fit the number of ranks.

    Raises:
        ConfigError: several ranks, or a perturbation of each rank's own with one rank.
    """
    if ranks.size > 1:
        raise ConfigError("WORLD_SIZE", ranks.size, "a run has one process in this version; unset RANK and WORLD_SIZE")
    if cfg.perturbation == "per_rank":
        allowed = "needs several ranks: torchrun --nproc-per-node 2 launch.py ..., or use synchronised"
        raise ConfigError("train.perturbation", "per_rank", allowed)
