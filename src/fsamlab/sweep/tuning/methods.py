"""The methods that a command asks a study to compare, and the keys that are searched in each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from fsamlab.checks import ConfigError
from fsamlab.config import from_plain
from fsamlab.config.along import SEARCHED, Entry, entries_of, key_of
from fsamlab.config.compose import check_words, grid, grids_of, with_words_along
from fsamlab.config.objective import check_validation
from fsamlab.config.space import Dimension, Value, is_searched
from fsamlab.sweep.plan import JobPlan, compose_job
from fsamlab.sweep.tuning.halving import rungs
from fsamlab.sweep.tuning.record import Group, Study
from fsamlab.sweep.tuning.settings import PREFIX, Settings

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

LENGTH = ("train.epochs", "optimizer.epoch_multiplier")  # with these searched, the trials have no common rungs


@dataclass(frozen=True)
class Method:
    """A combination of the settings that are not searched.

    Attributes:
        words: the words that set the combination.
        seeds: the words that set the seeds; empty for the seed of the configuration.
        space: the searched keys that the method has.
        plan: a run of the method, at the first value of each searched key.
    """

    words: list[str]
    seeds: list[str]
    space: tuple[Dimension, ...]
    plan: JobPlan

    def group(self, settings: Settings) -> Group:
        """Return the group of the study, still without trials.

        Raises:
            ConfigError: the training and the first pause do not go together.
        """
        config = self.plan.config
        epochs = config["train"]["epochs"] * config["optimizer"]["epoch_multiplier"]
        least = settings.min_epochs if self.space else None
        if least is not None:
            key = f"{PREFIX}halving.min_epochs"
            every = config["train"]["eval_every_epochs"]
            if least >= epochs:
                raise ConfigError(key, least, f"must be below the {epochs} epochs of the training")
            if least < every:
                raise ConfigError(key, least, f"must be at least train.eval_every_epochs={every}: no value before")
            searched = next((d for d in self.space if d.name in LENGTH), None)
            if searched is not None:
                raise ConfigError(key, least, f"cannot halve where {searched.name} is searched; leave it null")
        return Group(
            self.words,
            self.seeds,
            {dimension.name: dimension.text for dimension in self.space},
            rungs(epochs, least, settings.factor),
            self.plan.config_hash,
            settings.trials if self.space else 1,
            config["objective"],
        )

    def jobs(self, params: Mapping[str, Value]) -> list[list[str]]:
        """Return the words of each run of a trial, one for each seed."""
        own = [dimension.word(params[dimension.name]) for dimension in self.space]
        return [[*self.words, *own, *seed] for seed in ([[seed] for seed in self.seeds] or [[]])]


def methods_of(loader: ConfigLoader, master: DictConfig, arguments: list[str]) -> list[Method]:
    """Return the methods that the sweep file and the words of the command line ask for.

    Raises:
        ConfigError, Hydra's and OmegaConf's errors: a word, a value or an end of a range cannot be used, nothing is
            searched, or the runs have no validation data.
    """
    grids = [_split(loader, words) for words in grids_of(master.hydra.sweeper, arguments)]
    along = _along(loader, master, grids)
    parts = [part for one in grids for part in _parts(loader, master, one, along)]
    taken = {dimension.name for part in parts for dimension in part.kept}
    for part in parts:
        for key, error in part.refused.items():
            if key not in taken:  # no method at all can use the key
                raise error
    if not taken:
        example = "'optimizer.rho=log(0.01,0.5)'"
        raise ConfigError("hydra/sweeper", "tune", f"has no key to search; give one a range, such as {example}")
    found = []
    for part in parts:
        plan = part.plan or _checked(loader, master, [*part.words, *part.seeds[:1]], part.kept)
        found.append(Method(part.words, part.seeds, tuple(part.kept), plan))
        if part.refused:
            rest = "the other keys are searched" if part.kept else "it is trained once, as it is"
            log.info("%s has no %s: %s", " ".join(part.words), ", ".join(part.refused), rest)
    settings = [(method.plan.config_hash, method.plan.config["seed"]) for method in found]
    for method, setting in zip(found, settings):
        check_validation(from_plain(method.plan.config).data)
        if settings.count(setting) > 1:
            raise ConfigError("hydra.sweeper.grids", " ".join(method.words), "is searched twice: leave out one")
    return found


@dataclass(frozen=True)
class _Part:
    """A method: the searched keys that it has, why it refuses the others, and its run, if that is composed already."""

    words: list[str]
    seeds: list[str]
    kept: list[Dimension]
    refused: dict[str, ConfigError]
    plan: JobPlan | None


@dataclass(frozen=True)
class _Grid:
    """The words of one grid: the searched keys, the words of the seeds, and the other words."""

    space: list[Dimension]
    seeds: list[str]
    fixed: list[str]


def _split(loader: ConfigLoader, words: list[str]) -> _Grid:
    check_words(words)
    last: dict[str, Any] = {}  # of several words for a key the last one counts
    for override in OverridesParser.create(config_loader=loader).parse_overrides(words):
        last.pop(override.key_or_group, None)
        last[override.key_or_group] = override
    space, seeds, fixed = [], [], []
    for key, override in last.items():
        if key == "seed":
            if is_searched(override.value()):
                raise ConfigError("seed", str(override.input_line).partition("=")[2], "is not searched; give values")
            sweeps = override.is_sweep_override()
            texts = list(override.sweep_string_iterator()) if sweeps else [override.get_value_element_as_str()]
            seeds = [f"seed={text}" for text in texts]
        elif (dimension := Dimension.of(override)) is not None:
            space.append(dimension)
        else:
            fixed.append(str(override.input_line))
    return _Grid(space, seeds, fixed)


def _along(loader: ConfigLoader, master: DictConfig, grids: list[_Grid]) -> list[Entry]:
    """Return the entries of `along`. The seeds and the searched keys are not yet known when words come along.

    Raises:
        ConfigError: an entry cannot be used in a study.
    """
    along = entries_of(
        loader, master.hydra.sweeper.get("along"), [[*one.fixed, *one.seeds, *_names(one)] for one in grids]
    )
    searched, fixed = {name for one in grids for name in _names(one)}, {key_of(w) for one in grids for w in one.fixed}
    for entry in along:
        if "seed" in (entry.key, *entry.words):
            raise ConfigError(
                entry.name, "seed", "a study trains all trials of a method with the same seeds; give seed=0,1"
            )
        if entry.key in searched - fixed:
            raise ConfigError(entry.name, entry.key, "is searched; words come along with a key that has plain values")
        for override in OverridesParser.create().parse_overrides(list(entry.words.values())):
            if Dimension.of(override) is not None:
                key, _, values = str(override.input_line).partition("=")
                raise ConfigError(f"{entry.name}.{key}", values, SEARCHED)
    return along


def _names(one: _Grid) -> list[str]:
    return [dimension.name for dimension in one.space]


def _parts(loader: ConfigLoader, master: DictConfig, one: _Grid, along: list[Entry]) -> Iterator[_Part]:
    """Yield the methods of one grid: each combination of its plain lists, apart from the seeds."""
    space, seeds = one.space, one.seeds
    jobs = [more for job in grid(loader, one.fixed) for more in with_words_along(loader, along, job, _names(one))]
    for job in jobs:
        first = [*job, *seeds[:1]]
        try:
            yield _Part(job, seeds, space, {}, _checked(loader, master, first, space))
        except ConfigError:  # each key by itself: does the method have it?
            yield _Part(job, seeds, *_taken(loader, master, first, space), None)


def _taken(
    loader: ConfigLoader, master: DictConfig, words: list[str], space: list[Dimension]
) -> tuple[list[Dimension], dict[str, ConfigError]]:
    """Return the searched keys that a method has, and for each other key the error of one of its values.

    A method does not have a key if it refuses the key at both ends of the range; a value that the key has anyway (SGD
    has optimizer.rho=0) does not count.
    """
    kept, errors = [], {}
    for dimension in space:
        refusals = [_refusal(loader, master, words, dimension, end) for end in dimension.ends]
        wrong = [refusal for refusal in refusals if refusal is not None]
        default = refusals[0] is None and len(wrong) == 1 and _is_default(loader, master, words, dimension)
        if len(wrong) == 2 or default:
            errors[dimension.name] = wrong[-1]
        elif wrong:
            raise wrong[0]
        else:
            kept.append(dimension)
    return kept, errors


def _refusal(
    loader: ConfigLoader, master: DictConfig, words: list[str], dimension: Dimension, value: Value
) -> ConfigError | None:
    """Return why a method refuses a value of a searched key; None where it does not refuse this key."""
    try:
        compose_job(loader, master, [*words, dimension.word(value)])
    except ConfigError as e:
        if e.key == dimension.name:
            return e
    return None


def _is_default(loader: ConfigLoader, master: DictConfig, words: list[str], dimension: Dimension) -> bool:
    """Return whether the first value of a range is the value that the method has without it."""
    plain, first = (compose_job(loader, master, [*words, *more]) for more in ([], [dimension.word(dimension.ends[0])]))
    return plain.config_hash == first.config_hash


def _checked(loader: ConfigLoader, master: DictConfig, words: list[str], space: list[Dimension]) -> JobPlan:
    """Compose a method at the last and at the first values of its ranges; return the latter.

    Raises:
        ConfigError, Hydra's and OmegaConf's errors: the configuration cannot be used.
    """
    for end in (1, 0):
        plan = compose_job(loader, master, [*words, *(d.word(d.ends[end]) for d in space)])
    return plan


def asked_study(methods: list[Method], settings: Settings) -> Study:
    """Return the study that a command asks for, still without trials."""
    return Study(settings.recorded(), [method.group(settings) for method in methods])
