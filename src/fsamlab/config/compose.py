"""Composing conf/ without `hydra.main`: shared by the commands of `fsamlab` and the sweeper."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache
from itertools import islice
from typing import Any, get_args, get_origin, get_type_hints

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext

from fsamlab.config import SCHEMAS, Config, ConfigError, register_schemas
from fsamlab.config.along import Entry, entries_of, words_along
from fsamlab.config.identity import register_resolvers
from fsamlab.config.project import CONF, check_project, name_to_jobs
from fsamlab.config.search import check_names
from fsamlab.config.space import is_searched, word_of

MAX_JOBS = 100_000  # the record of a sweep holds one configuration for each job


@contextmanager
def composing(words: Iterable[str] = ()) -> Iterator[HydraContext]:
    """Yield the context from which Hydra's loaders, sweepers and launchers are made; `hydra.compose` works inside too.

    Args:
        words: words of a command line that are going to be composed; they are checked first.

    Raises:
        ConfigError: a word cannot be used, or the code and the directory belong to different projects.
    """
    check_project()
    name_to_jobs()
    check_words(words)
    register()
    setup_globals()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())


def jobs_of(loader: ConfigLoader, sweeper: Mapping[str, Any], words: Iterable[str]) -> list[list[str]]:
    """Return the overrides of every job that a sweep file and a command line ask for.

    The jobs are those of all :func:`grids_of`, with the words that come along with their values (along.py).

    Raises:
        ConfigError: an entry of `grids` or `along` is not of its form, a list of values is empty, or there are more
            than MAX_JOBS jobs.
    """
    grids = grids_of(sweeper, words)
    along = entries_of(loader, sweeper.get("along"), grids)
    jobs = [more for one in grids for job in grid(loader, one) for more in with_words_along(loader, along, job)]
    if len(jobs) > MAX_JOBS:
        names = ",".join(sweeper.get("grids") or {})
        raise ConfigError("hydra.sweeper.grids", names, f"gives the sweep more than {MAX_JOBS} jobs")
    return jobs


def with_words_along(
    loader: ConfigLoader, along: Iterable[Entry], job: list[str], taken: Collection[str] = ()
) -> list[list[str]]:
    """Return a job with the words that come along with its values, or several jobs if these words have several values.

    Args:
        loader: Hydra's.
        along, job, taken: as in :func:`fsamlab.config.along.words_along`.
    """
    return [[*job, *words] for words in grid(loader, words_along(along, job, taken))]


def grids_of(sweeper: Mapping[str, Any], words: Iterable[str]) -> list[list[str]]:
    """Return the words of every grid that a sweep file and a command line span.

    `params` of the sweep file span a grid. Methods with different parameters (SGD has no radius) do not fit into one
    grid: each entry of `grids` spans a grid together with `params`, and the sweep has the jobs of all these grids. In
    each grid, a key of the entry wins over the same key in `params`, and the command line wins over both.

    Args:
        sweeper: the section hydra.sweeper, with `params` and `grids`. An entry that is null is left out.
        words: the words of the command line.

    Raises:
        ConfigError: `params` or an entry of `grids` is no grid.
    """
    entries = sweeper.get("grids") or {}
    if not isinstance(entries, Mapping):
        raise ConfigError("hydra.sweeper.grids", entries, "must be names with grids, {sam: {optimizer.rho: '0.1,0.2'}}")
    for name, entry in entries.items():
        if not isinstance(entry, Mapping | None):
            allowed = "must be keys with their values, {optimizer: sam, optimizer.rho: '0.1,0.2'}, or null"
            raise ConfigError(f"hydra.sweeper.grids.{name}", entry, allowed)
    chosen = [entry for entry in entries.values() if entry is not None]
    if entries and not chosen:
        raise ConfigError("hydra.sweeper.grids", dict(entries), "leaves no job: every grid is null")
    params = sweeper.get("params")
    if not isinstance(params, Mapping | None):
        raise ConfigError("hydra.sweeper.params", params, "must be keys with their values, {optimizer: 'sgd,sam'}")
    words, params = list(words), _as_words(params)
    return [[*params, *_as_words(entry), *words] for entry in chosen or [None]]


def _as_words(params: Mapping[str, Any] | None) -> list[str]:
    return [word_of(key, values) for key, values in (params or {}).items()]


def grid(loader: ConfigLoader, words: Iterable[str]) -> list[list[str]]:
    """Return the overrides of every job in the grid that the words of a command line span.

    Raises:
        ConfigError: a list of values is empty, or the sweep has more than MAX_JOBS jobs.
    """
    words = list(words)
    check_words(words)
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
    num_jobs = 1
    for override in overrides:
        if not override.is_sweep_override():
            continue
        expression = str(override.input_line).partition("=")[2]
        if is_searched(override.value()):
            allowed = "is a range to search: add hydra/sweeper=tune, or give values, a,b"
            raise ConfigError(override.key_or_group, expression, allowed)
        # Count lazily and stop early: range(0, 10**9) must be refused, not expanded.
        try:
            count = sum(1 for _ in islice(override.sweep_iterator(), MAX_JOBS + 1))
        except (ValueError, HydraException) as e:  # a step of zero
            raise ConfigError(override.key_or_group, expression, str(e)) from None
        if count == 0:
            raise ConfigError(override.key_or_group, expression, "names no value, so the sweep has no job")
        num_jobs *= count
        if num_jobs > MAX_JOBS:
            raise ConfigError(override.key_or_group, expression, f"gives the sweep more than {MAX_JOBS} jobs")
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def quoted(value: object) -> str:
    """Return a value in quotes, so that Hydra's override grammar reads the value literally."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def register() -> None:
    """Tell Hydra the schemas and OmegaConf the resolvers; every process that composes needs this call."""
    register_schemas()
    register_resolvers()


def check_words(words: Iterable[str]) -> None:
    """Refuse words of a command line for which Hydra would print a traceback, as a group with a number as option.

    Raises:
        ConfigError, HydraException: names the word and what is allowed.
    """
    words = list(words)
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except ValueError as e:  # from Python, for an integer of more than 4300 digits
        raise ConfigError("a word", max(words, key=len), f"cannot be read: {e}") from None
    check_names(override.value() for override in parsed if override.key_or_group == "hydra.searchpath")
    for override in parsed:
        key, value = override.key_or_group, override.value()
        if hints().get(key) is bool and isinstance(value, int | float) and value not in (0, 1):
            raise ConfigError(key, value, "must be true or false")  # OmegaConf turns every number but 0 into true
        above = key.rpartition(".")[0]
        if is_list(hints().get(above)):
            raise ConfigError(key, value, f"{above} is a list: write '{above}=[VALUE, ...]'")
        if key in SCHEMAS and value == {}:
            raise ConfigError(key, value, "changes nothing; give the name of an option, or keys: {key: value}")
        if key not in (*SCHEMAS, *LISTED_GROUPS) or override.is_delete() or isinstance(value, dict | Glob):
            continue
        for one in value.list if isinstance(value, ChoiceSweep) else [value]:
            check_option(key, one)


@cache
def hints() -> dict[str, Any]:
    """Return dotted key -> type of all schemas."""

    def walk(schema: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, hint in get_type_hints(schema).items():
            yield prefix + name, hint
            if is_dataclass(hint):
                yield from walk(hint, f"{prefix}{name}.")

    groups = [(group, cls) for group, schemas in SCHEMAS.items() for cls in schemas.values()]
    return {key: hint for group, cls in (*groups, ("", Config)) for key, hint in walk(cls, group and f"{group}.")}


def is_list(hint: Any) -> bool:
    """Return whether values of a type are lists."""
    return list in (get_origin(hint), *map(get_origin, get_args(hint)))


LISTED_GROUPS = ("experiment", "sweeps")  # groups that take several options, [a,b]


def check_option(key: str, value: Any) -> None:
    """Refuse a value that cannot be the name of a group's option."""
    for name in value if isinstance(value, list) and key in LISTED_GROUPS else [value]:
        said = name.text if isinstance(name, QuotedString) else name
        if not isinstance(said, str) or not said.isprintable() or not 0 < len(said) <= 200:
            raise ConfigError(key, said, "must be the name of one option; `python launch.py --help` lists them")
