"""The settings of the paper's sweeps."""

from __future__ import annotations

from functools import cache

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from fsamlab.config import Config, typed
from fsamlab.config.compose import register
from support.runs import ROOT


def text(sweep: str) -> str:
    return (ROOT / "sweeps" / f"{sweep}.yaml").read_text()


def grid(words: list[str]) -> list[list[str]]:
    """Return the overrides of every job of a grid, as Hydra's sweeper makes them."""
    overrides = OverridesParser.create().parse_overrides(words)
    return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def jobs(sweep: str) -> list[list[str]]:
    sweeper = yaml.safe_load(text(sweep))["hydra"]["sweeper"]
    grids = sweeper.get("grids", {"": {}}).values()
    found = [
        job for one in grids for job in grid([f"{k}={v}" for k, v in {**sweeper.get("params", {}), **one}.items()])
    ]
    along = {f"{k}={v}": words for k, by_value in sweeper.get("along", {}).items() for v, words in by_value.items()}
    return [[*job, *(f"{k}={v}" for word in job for k, v in along.get(word, {}).items())] for job in found]


def composed_job(sweep: str, job: list[str]) -> Config:
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides=[f"+sweeps={sweep}", *job]))


@cache
def settings(sweep: str) -> list[Config]:
    """Return the sweep's distinct configs; seeds, which differ in nothing that is checked, are left at the first."""
    distinct: dict[tuple[str, ...], list[str]] = {}
    for job in jobs(sweep):
        distinct.setdefault(tuple(o for o in job if not o.startswith("seed=")), job)
    return [composed_job(sweep, job) for job in distinct.values()]
