"""The configurations of what is done with the checkpoint of a run: `fsamlab measure` and `fsamlab evaluate`."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from fsamlab.checks import MISSING, ConfigError, check_fields, number, word
from fsamlab.config.data import EVALUATION_ONLY, TABLES, DataConfig

DECIDE_WHEN = ("name", "every_steps", "every_epochs")  # fields of diagnostics that decide when to measure, not what
WITHOUT_TEST_PART = ("digits", "synthetic", *TABLES)
# Fields of the data that an evaluation reads; everything else is for training, or is taken from the run.
READ = ("name", "import_path", "root", "download", "eval_batch_size", "num_workers", "corruptions")
OF_THE_RUN = ("mean", "std", "image_size", "resize")
CHANGE_NO_VALUE = ("download", "eval_batch_size", "num_workers")


@dataclass
class CheckpointConfig(ABC):
    """What is done with the checkpoint of one run.

    Attributes:
        FOLDER: where the rows lie, in the directory of the run.
    """

    FOLDER: ClassVar[str]

    root: str = MISSING  # absolute directory above all runs of the command
    run: str = MISSING  # run directory below it
    checkpoint: str = word("last", "last", "best", "ema")
    force: bool = False  # do it again, even if the row exists
    device: str = word("auto", "auto", "cpu", "cuda")
    num_threads: int | None = number(None, 1, 1024)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings that the values depend on, besides the checkpoint."""

    def sections(self) -> dict[str, Any]:
        """Return the sections that take the place of those of the run's configuration."""
        return {}

    @property
    def subject(self) -> str:
        """Return the text that begins the names of the rows' files; empty where the settings say everything."""
        return ""


@dataclass
class MeasureConfig(CheckpointConfig):
    """The configuration of one measurement of one run's checkpoint (`fsamlab measure`)."""

    FOLDER = "measurements"

    diagnostics: Any = MISSING

    def __post_init__(self) -> None:
        check_fields("", self)
        if not self.diagnostics.quantities:
            allowed = "measures nothing of a checkpoint; choose diagnostics=full or list diagnostics.quantities"
            raise ConfigError("diagnostics", self.diagnostics.name, allowed)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the diagnostics, without the intervals."""
        return {k: v for k, v in dataclasses.asdict(self.diagnostics).items() if k not in DECIDE_WHEN}

    def sections(self) -> dict[str, Any]:
        """Return the diagnostics."""
        return {"diagnostics": self.diagnostics}


@dataclass
class EvaluateConfig(CheckpointConfig):
    """The configuration of the evaluation of one run's checkpoint on another data set (`fsamlab evaluate`)."""

    FOLDER = "evaluations"

    data: Any = MISSING

    def __post_init__(self) -> None:
        check_fields("", self)
        data: DataConfig = self.data
        if data.import_path is None and data.name in WITHOUT_TEST_PART:
            allowed = "has no test part of its own, the split of a run makes one; choose other data, as data=cifar10c"
            raise ConfigError("data", data.name, allowed)
        if data.import_path is None and data.name not in EVALUATION_ONLY:
            data.check_name()
        if "/" in data.name or data.name.startswith(".") or len(data.name) > 70:
            raise ConfigError("data.name", data.name, "is part of a file's name: at most 70 characters, without /")

    def settings(self) -> dict[str, Any]:
        """Return what names the data."""
        read = [name for name in READ if name not in CHANGE_NO_VALUE and hasattr(self.data, name)]
        return {name: getattr(self.data, name) for name in read}

    @property
    def subject(self) -> str:
        """Return the name of the data set."""
        return str(self.data.name)
