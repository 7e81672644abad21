"""Reference numbers: results of others, with source and setting, that a run can stand beside.

Nothing here selects or averages runs. reference_files.py reads the files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsamlab.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TaskConfig,
    TrainConfig,
)
from fsamlab.config.identity import NEUTRAL
from fsamlab.results.settings import plain

LAST, BEST, UNSTATED = "last", "best_on_test", "unstated"
KINDS = {LAST: "last epoch", BEST: "best epoch on test data", UNSTATED: "epoch not stated"}
SECTIONS = {
    "optimizer": OptimizerConfig,
    "model": ModelConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "task": TaskConfig,
}
# Settings that change rounding or bookkeeping alone, and so are not part of a recipe.
NO_RECIPE = NEUTRAL | {
    "data.eval_batch_size",
    "train.channels_last",
    "train.compile",
    "train.cuda_graph",
    "train.ema_decay",
}
NO_RECIPE |= {"train.on_divergence"}
ANY = "any"  # `model.name: {any: [a, b]}`: the source does not say which of the values


@dataclass(frozen=True)
class Value:
    """A published value.

    Attributes:
        mean: over the seeds; in per cent for an accuracy.
        std: over the seeds; None if the source has none.
        epoch: at which the value was found, from 1; None if the source does not say.
    """

    mean: float
    std: float | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Reference:
    """A result of others.

    Attributes:
        name: what a user types after `--reference`.
        title: method and origin in words.
        source: repository, commit, file, url, as far as they are known.
        setting: dotted config key -> value.
        whole: whether `setting` is the whole recipe; every key that is not in it then has the schema's default.
        values: last, best_on_test or unstated -> value.
        metric: name of the metric on test data, such as `acc1`.
        num_seeds: None if the source does not say.
        seeds: the seeds, where the source names them.
        unknown: what the source leaves open.
        not_here: why no run of this package can have the setting; empty if one can.
        note: anything else that a reader must know.
        seconds_per_epoch: of the source's training.
        curve: the metric on test data after each epoch, from epoch 1.
        band: the largest difference that a reproduction may have, in the unit of the values; None: the user says.
    """

    name: str
    title: str
    source: Mapping[str, str]
    setting: Mapping[str, Any]
    whole: bool
    values: Mapping[str, Value]
    metric: str = "acc1"
    num_seeds: int | None = None
    seeds: tuple[int, ...] = ()
    unknown: str = ""
    not_here: str = ""
    note: str = ""
    seconds_per_epoch: float | None = None
    curve: tuple[float, ...] = ()
    band: float | None = None

    @property
    def origin(self) -> str:
        """Repository, commit and file in one line."""
        commit = self.source.get("commit", "")[:7]
        place = self.source["repository"] + (f" at {commit}" if commit else "")
        return ", ".join(part for part in (place, self.source.get("file")) if part)

    @property
    def whose_seeds(self) -> str:
        """`seed 1`, `3 seeds` or `seeds unknown`."""
        if self.seeds:
            return f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        return "seeds unknown" if self.num_seeds is None else f"{self.num_seeds} seed{'s' * (self.num_seeds > 1)}"

    @property
    def remarks(self) -> str:
        """Everything that a reader of the values must know, in one line."""
        unknown = f"not known: {self.unknown}" if self.unknown else ""
        without = f"no run of this package can have the setting: {self.not_here}" if self.not_here else ""
        parts = (self.title, self.whose_seeds, self.origin, unknown, self.note, without)
        return "; ".join(part for part in parts if part)

    def differences(self, run: Mapping[Any, Any]) -> list[str]:
        """Return in words where the setting of a run differs: `optimizer.lmbda 0.9 (reference 0.95)`.

        Args:
            run: the row of a run, as `collect` makes it.
        """
        if self.not_here:
            return [self.not_here]
        keys = [key for key in (*self.setting, *(DEFAULTS if self.whole else ())) if key not in NO_RECIPE]
        found = {}
        for key in keys:
            ours, theirs = value_of(run, key), self.setting.get(key, DEFAULTS.get(key))
            options = theirs[ANY] if isinstance(theirs, dict) and ANY in theirs else [theirs]
            if not any(same(ours, option) for option in options):
                found[key] = f"{key} {_said(ours)} (reference {' or '.join(map(_said, options))})"
        return list(found.values())

    def agrees(self, run: Mapping[Any, Any], key: str) -> bool:
        """Return whether a run has the reference's value of a key; True if the reference does not name the key."""
        theirs = self.setting.get(key)
        options = theirs[ANY] if isinstance(theirs, dict) and ANY in theirs else [theirs]
        return key not in self.setting or any(same(value_of(run, key), option) for option in options)


def _defaults() -> dict[str, Any]:
    """Return dotted key -> the schema's default, for all keys of the sections of a recipe."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for f in dataclasses.fields(node):
            value = getattr(node, f.name, None)
            if f.default_factory is not dataclasses.MISSING:
                value = f.default_factory()
            if dataclasses.is_dataclass(value):
                walk(value, f"{prefix}{f.name}.")
            elif not (isinstance(value, str) and value == "???"):
                found[prefix + f.name] = value

    for section, cls in SECTIONS.items():
        walk(cls, f"{section}.")
    return found


DEFAULTS = _defaults()


def value_of(run: Mapping[Any, Any], key: str) -> Any:
    """Return a run's value of a config key. A run that was made before the key existed has the schema's default."""
    value = run.get(key)
    return DEFAULTS.get(key) if value is None or value != value else value


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two config values are equal; numbers up to rounding, lists and tuples by their elements."""
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return math.isclose(ours, theirs, rel_tol=1e-9)
    return bool(ours == theirs)


def _said(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else plain(value)
