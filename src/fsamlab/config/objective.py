"""The key `objective`: the number that a search over settings gets for each run, from validation data alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsamlab.checks import ConfigError
from fsamlab.config.data import DataConfig
from fsamlab.metrics.objective import objective_column

GRIDS = ("CheckedSweeper", "BasicSweeper")  # the sweepers that need no number: their runs are known beforehand


@dataclass(frozen=True)
class ValidationMetric:
    """The range of a key whose values are metrics of the validation data."""

    def check(self, key: str, value: str) -> None:
        """Refuse a metric of other data."""
        try:
            objective_column(value)
        except ValueError as e:
            raise ConfigError(key, value, str(e)) from None


def check_validation(data: DataConfig) -> None:
    """Refuse data without a validation split, where a number for a search is needed.

    Raises:
        ConfigError: `data.val_size` is 0. A data set of a user's own may bring a split that no key of the config names.
    """
    if data.val_size == 0 and data.import_path is None:
        allowed = "leaves no validation data, on which settings are chosen; hold samples out, as data.val_size=500"
        raise ConfigError("data.val_size", 0, allowed)


def no_objective(metric: str | None, directory: Path) -> ConfigError:
    """Return the error for a finished run that has no number for a search."""
    allowed = f"{directory} has finished without a value of validation data for it; force=true starts the run again"
    return ConfigError("objective", metric, allowed)


def is_search(sweeper: Any) -> bool:
    """Return whether a sweeper chooses its runs by the results of earlier ones; `sweeper` is its section of the config.

    A sweeper that is not known searches.
    """
    return str(sweeper.get("_target_")).rpartition(".")[2] not in GRIDS
