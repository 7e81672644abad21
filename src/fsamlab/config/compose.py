"""Composing conf/ without `hydra.main`: what the commands of `fsamlab` share with each other and with the sweeper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext

from fsamlab.config import ConfigError
from fsamlab.config.project import PROJECT_ROOT, check_project
from fsamlab.terminal import errors

MAX_JOBS = 100_000  # of one sweep; its record holds a configuration for each


@contextmanager
def composing(words: Iterable[str] = ()) -> Iterator[HydraContext]:
    """Give what Hydra's loaders, sweepers and launchers are made with; `hydra.compose` works inside too.

    Args:
        words: what is going to be composed, checked here first.
    """
    check_project()
    errors.check_words(words)
    errors.register()
    setup_globals()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())


def grid(loader: ConfigLoader, words: Iterable[str]) -> list[list[str]]:
    """Return the overrides of every job that Hydra's grid makes of a sweep file's parameters and a command line.

    Raises:
        ConfigError: a list of values that is empty, or more jobs than a sweep can be.
    """
    words = list(words)
    errors.check_words(words)
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
    num_jobs = 1
    for override in overrides:
        if not override.is_sweep_override():
            continue
        expression = str(override.input_line).partition("=")[2]
        try:
            count = sum(1 for _ in islice(override.sweep_iterator(), MAX_JOBS + 1))
        except (ValueError, HydraException) as e:  # a step of zero
            raise ConfigError(override.key_or_group, expression, str(e)) from None
        if count == 0:
            raise ConfigError(override.key_or_group, expression, "names no value, so that the sweep has no job")
        num_jobs *= count
        if num_jobs > MAX_JOBS:
            raise ConfigError(override.key_or_group, expression, f"makes more than {MAX_JOBS} jobs of the sweep")
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def quoted(value: object) -> str:
    """Return a value as Hydra's override grammar takes it literally."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
