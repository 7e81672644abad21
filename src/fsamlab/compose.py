"""Composing conf/ without `hydra.main`: what the commands of `fsamlab` share with each other and with the sweeper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import HydraContext

from fsamlab import door
from fsamlab.identity import PROJECT_ROOT


@contextmanager
def composing() -> Iterator[HydraContext]:
    """Give what Hydra's loaders, sweepers and launchers are made with; `hydra.compose` works inside too."""
    door.register()
    setup_globals()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())


def grid(loader: ConfigLoader, words: Iterable[str]) -> list[list[str]]:
    """Return the overrides of every job that Hydra's grid makes of a sweep file's parameters and a command line."""
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def quoted(value: object) -> str:
    """Return a value as Hydra's override grammar takes it literally."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
