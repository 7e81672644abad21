"""The settings of `hydra/sweeper=tune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fsamlab.checks import COUNT, Choice, ConfigError, Number, check_type

PREFIX = "hydra.sweeper."
OF_SWEEPS = ("_target_", "max_batch_size", "params", "grids", "along", "halving")  # of any sweep, judged elsewhere
ALLOWED: dict[str, tuple[Any, Number | Choice | None]] = {  # setting: type, allowed values
    "trials": (int, Number(1, 100_000)),
    "parallel": (int, Number(1, 10_000)),
    "sampler": (str, Choice(("tpe", "random"))),
    "sampler_seed": (int, Number(0, COUNT)),
    "halving.min_epochs": (int | None, Number(1, COUNT)),
    "halving.factor": (int, Number(2, 1000)),
}


@dataclass(frozen=True)
class Settings:
    """How a study searches.

    Attributes:
        trials: the number of trials of each method.
        parallel: how many trials of a method are proposed, and run, at once.
        sampler: `tpe` or `random`.
        sampler_seed: decides what the sampler draws.
        min_epochs: the first pause of all trials; None means no halving.
        factor: one out of so many trials goes on after a pause, to so many times the epochs.
    """

    trials: int
    parallel: int
    sampler: str
    sampler_seed: int
    min_epochs: int | None
    factor: int

    @classmethod
    def of(cls, sweeper: Mapping[str, Any]) -> Settings:
        """Return the checked settings of the section hydra.sweeper.

        Raises:
            ConfigError: a setting is unknown, or has a value that is not allowed.
        """
        halving = sweeper.get("halving")
        if not isinstance(halving, Mapping):
            raise ConfigError(f"{PREFIX}halving", halving, "must be {min_epochs: 5, factor: 3}")
        flat = {**sweeper, **{f"halving.{key}": value for key, value in halving.items()}}
        found: dict[str, Any] = {}
        for name, (kind, allowed) in ALLOWED.items():
            value = flat.get(name)
            check_type(PREFIX + name, value, kind)
            if value is not None and allowed is not None:
                allowed.check(PREFIX + name, value)
            found[name.rpartition(".")[2]] = value
        for name in flat:
            if name not in ALLOWED and name not in OF_SWEEPS:
                raise ConfigError(PREFIX + str(name), flat[name], f"is no setting; there are {', '.join(ALLOWED)}")
        return cls(**found)

    def recorded(self) -> dict[str, Any]:
        """Return the settings that a study keeps: all but how many trials are at once."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "parallel"}
