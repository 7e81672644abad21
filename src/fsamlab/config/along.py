"""Words that come along with a value of a sweep: each method at its own radius, in one grid.

    hydra:
      sweeper:
        params: {seed: "0,1,2", optimizer: "sgd,sam,fsam"}
        along:
          optimizer:
            sam: {optimizer.rho: 0.4}
            fsam: {optimizer.rho: 0.8}

A key that the job has already, from the command line or from a grid, keeps its value. Several values span a grid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hydra.core.config_loader import ConfigLoader

from fsamlab.checks import ConfigError, did_you_mean
from fsamlab.config import SCHEMAS
from fsamlab.config.space import spelled

KEY = "hydra.sweeper.along"
EXAMPLE = "{optimizer: {sam: {optimizer.rho: 0.4}}}"


def words_along(loader: ConfigLoader, entries: Any, job: Collection[str], taken: Collection[str] = ()) -> list[str]:
    """Return the words that come along with the words of a job.

    Args:
        loader: Hydra's, which knows the options of a group.
        entries: the section `along` of hydra.sweeper: {key: {value: {key: values}}}, or None.
        job: the words of the job.
        taken: further keys that have their values already.

    Raises:
        ConfigError: the section is not of this form, or names an option that does not exist.
    """
    said = dict(_said(word) for word in job)
    more: dict[str, Any] = {}
    for key, by_value in _mapping(KEY, entries).items():
        for value, values in _mapping(f"{KEY}.{key}", by_value).items():
            found = _mapping(f"{KEY}.{key}.{value}", values)
            if key in SCHEMAS and value not in (options := loader.get_group_options(key)):
                raise ConfigError(f"{KEY}.{key}", value, f"is no option{did_you_mean(str(value), options)}")
            if said.get(str(key)) == str(value):
                more |= found
    return [spelled(f"{key}={values}") for key, values in more.items() if key not in said and key not in taken]


def _said(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    return key, value.strip("'\"")


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(name, value, f"must be keys with values that words come along with, {EXAMPLE}")
    return value
