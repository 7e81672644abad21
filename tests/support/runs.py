"""Small real runs for tests: a tiny CNN on synthetic images, seconds on one core."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from fsamlab.axes import rules
from fsamlab.config import SCHEMAS, Config, typed
from fsamlab.config.compose import register

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "data=synthetic",
    "data.num_samples=352",
    "data.batch_size=32",
    "data.label_noise=0.2",
    "data.augment.flip=true",
    "data.augment.crop_padding=1",
    "model.width=4",
    "tracker=none",
    "train.num_threads=1",
    "train.epochs=2",
    "train.progress=false",
)
VARIANTS = sorted(p.stem for p in (ROOT / "conf" / "optimizer").glob("*.yaml"))
ADAMW = ("optimizer.base=adamw", "optimizer.lr=0.002")


def compose_tiny(*overrides: str) -> Config:
    """Compose conf/ with the tiny setting and `overrides`."""
    schemas = (*SCHEMAS["optimizer"].values(), *rules.parameter_types())  # which a test may have changed
    return copy.deepcopy(_composed(overrides, schemas))


@cache  # many tests want the same few configurations, and Hydra takes longer than most of them
def _composed(overrides: tuple[str, ...], schemas: tuple[object, ...]) -> Config:
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides=[*TINY, *overrides]))


def compose_bare(*overrides: str) -> Config:
    """Compose conf/ with `overrides` alone, for data sets that do not have the keys of the tiny setting."""
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides=["tracker=none", "train.progress=false", *overrides]))


DIABETES = (
    *("experiment=diabetes", "tracker=none", "train.progress=false", "train.epochs=3", "model.width=8"),
    *("data.batch_size=32", "optimizer.lr=0.01", "optimizer.weight_decay=5e-4"),
)


def compose_diabetes(*overrides: str) -> Config:
    """Compose conf/ with a small regression and `overrides`."""
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides=[*DIABETES, *overrides]))


def build_trainer(config: Config, device: Any = "cpu") -> Any:
    """Build the trainer exactly as a run does."""
    import torch

    from fsamlab.run import build

    return build(config, torch.device(device))[0]


class Rows:
    """The least observer: keeps the rows."""

    def __init__(self):
        self.rows = []

    def row(self, row):
        self.rows.append(row)

    def poll(self):
        pass

    def stopping(self):
        return False

    def boundary(self):
        pass


def precisions() -> tuple[str, ...]:
    """Return the values that `train.precision` may have."""
    from fsamlab.checks import Choice
    from fsamlab.config import TrainConfig

    metadata = TrainConfig.__dataclass_fields__["precision"].metadata
    return next(value for value in metadata.values() if isinstance(value, Choice)).allowed
