"""The schemas of a run, and the one call that makes plain dataclasses of a composed config.

This package imports no torch, so that composing, checking and submitting stay fast. The schema classes have two uses:
Hydra checks names and types against them while it composes, and the rest of the package works with their objects. Below
:func:`typed` no module imports omegaconf or hydra.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fsamlab.checks import (
    MISSING,
    RANGE,
    ConfigError,
    StrayKey,
    check_fields,
    did_you_mean,
    in_range,
    is_recorded,
    location,
    number,
    one_of,
    recorded,
    shown,
    text,
    unknown_key,
    word,
)
from fsamlab.config.checkpoints import CheckpointConfig, EvaluateConfig, MeasureConfig
from fsamlab.config.corrupted import CorruptedConfig
from fsamlab.config.data import AugmentConfig, DataConfig, ImageFolderConfig, SyntheticConfig
from fsamlab.config.diagnostics import BATCHNORM_MODES, QUANTITIES, DiagnosticsConfig
from fsamlab.config.model import FOR_TABLES, WITHOUT_BLOCKS, ModelConfig
from fsamlab.config.objective import ValidationMetric, check_validation
from fsamlab.config.optimizer import OptimizerConfig
from fsamlab.config.task import TaskConfig
from fsamlab.config.train import TrackerConfig, TrainConfig

__all__ = [
    "BATCHNORM_MODES",
    "MISSING",
    "QUANTITIES",
    "SCHEMAS",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "CorruptedConfig",
    "DataConfig",
    "DiagnosticsConfig",
    "EvaluateConfig",
    "ImageFolderConfig",
    "MeasureConfig",
    "ModelConfig",
    "OptimizerConfig",
    "StrayKey",
    "SyntheticConfig",
    "TaskConfig",
    "TrackerConfig",
    "TrainConfig",
    "did_you_mean",
    "from_plain",
    "in_range",
    "one_of",
    "recorded",
    "register_schemas",
    "schema_of",
    "section_from_plain",
    "shown",
    "to_plain",
    "typed",
    "typed_evaluate",
    "typed_measure",
    "unknown_key",
]


@dataclass
class Config:
    """The configuration of one run: single values, and one section for each group of conf/."""

    name: str = text("default", 120, "/\\")  # groups runs: their parent directory, their W&B group
    seed: int = number(0, 0, 2**31 - 1)  # split, label noise, initialisation, order, augmentation
    force: bool = False  # start again although the run is finished
    runs_dir: str = location("runs")  # relative to the project's directory
    # what to do if src/ has changed since the submission or the last checkpoint
    on_code_change: str = word("warn", "warn", "refuse")
    # what a search over settings gets for the run, as val/loss; null: the validation headline at the best epoch
    objective: str | None = field(default=None, metadata={RANGE: ValidationMetric()})
    optimizer: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING
    task: TaskConfig = field(default_factory=TaskConfig)
    train: Any = MISSING
    diagnostics: Any = MISSING
    tracker: Any = MISSING

    def __post_init__(self) -> None:
        check_fields("", self)
        if not is_recorded():
            self._check_names()
        if self.train.accumulate_steps > self.data.batch_size:
            allowed = (
                f"must be <= data.batch_size={self.data.batch_size}, because a micro-batch has at least one sample"
            )
            raise ConfigError("train.accumulate_steps", self.train.accumulate_steps, allowed)
        if self.train.accumulate_mode == "per_micro_batch" and not self.optimizer.chosen().per_micro_batch:
            allowed = f"needs a perturbation from the micro-batch itself; optimizer={self.optimizer.name} has none"
            raise ConfigError("train.accumulate_mode", "per_micro_batch", allowed)
        if self.train.perturbation == "per_rank" and not self.optimizer.chosen().per_micro_batch:
            allowed = f"needs a perturbation from the rank's own samples; optimizer={self.optimizer.name} has none"
            raise ConfigError("train.perturbation", "per_rank", allowed)
        if self.train.perturbation == "per_rank" and self.train.accumulate_mode == "per_micro_batch":
            allowed = "has one perturbation for each rank already with train.perturbation=per_rank; use joint"
            raise ConfigError("train.accumulate_mode", "per_micro_batch", allowed)
        if self.train.cuda_graph and not is_recorded():
            self._check_graph()
        if self.train.save_best and self.data.val_size == 0:
            raise ConfigError("train.save_best", True, "needs a validation split; set data.val_size")
        if self.objective is not None:
            check_validation(self.data)

    def _check_graph(self) -> None:
        """Refuse a step that cannot be captured as a CUDA graph."""
        optimizer, choices = self.optimizer, self.optimizer.chosen()
        why = choices.uncapturable
        if optimizer.imported().get("base"):
            why = f"base={optimizer.base} may read from the GPU, or count on the host"
        elif optimizer.same_rng and choices.ascent.has_clean_loss:
            why = "same_rng=true replays the random state inside a step"
        elif choices.descent.selects and self.train.accumulate_steps > 1:
            why = f"descent={choices.descent.name} counts on the host how many of the samples are in each micro-batch"
        if why:
            allowed = f"cannot capture the steps of optimizer={optimizer.name}: {why}; use false"
            raise ConfigError("train.cuda_graph", True, allowed)

    def _check_names(self) -> None:
        if self.name in (".", "..") or len(self.name.encode()) > 200:
            raise ConfigError("name", self.name, "must be usable as one directory name, of 200 bytes at most")
        for group in ("optimizer", "model", "data"):  # these names are part of the name of the run's directory
            if len(getattr(self, group).name) > 70:
                raise ConfigError(f"{group}.name", getattr(self, group).name, "must have 70 characters at most")
        self.model.check_name()
        self.data.check_name()
        self._check_task()

    def _check_task(self) -> None:
        """Refuse what does not go together: data, network, task. Code of a user's own is checked when it is called."""
        if self.data.import_path is None:
            of_data = "regression" if self.data.is_table else "classification"
            if self.task.name not in (None, of_data):
                allowed = f"data={self.data.name} has the targets of a {of_data}; leave it null, or choose other data"
                raise ConfigError("task.name", self.task.name, allowed)
            if self.task.top5 and self.data.is_table:
                raise ConfigError("task.top5", True, "has an effect in a classification alone; leave it false")
            if self.model.import_path is None and self.data.is_table != self._takes_tables():
                kinds = ("a table", "mlp") if self.data.is_table else ("a set of images", "small_cnn")
                allowed = f"cannot be trained on {kinds[0]}, data={self.data.name}; choose for example model={kinds[1]}"
                raise ConfigError("model", self.model.name, allowed)
            if self.data.is_table and self.train.channels_last:
                raise ConfigError("train.channels_last", True, "is for images; leave it false")
        own_model = self.model.library == "own" and self.model.import_path is None
        if self.train.activation_checkpointing and own_model and self.model.name in WITHOUT_BLOCKS:
            allowed = f"needs a network of blocks, and model={self.model.name} has none; leave it false"
            raise ConfigError("train.activation_checkpointing", True, allowed)
        regression = self.task.name == "regression" or self.data.is_table
        for key in ("mixup", "cutmix"):
            if regression and (alpha := getattr(self.data.augment, key)):
                allowed = "mixes labels of classes; a regression has none: leave it 0"
                raise ConfigError(f"data.augment.{key}", alpha, allowed)
        own = self.task.import_path is not None or self.task.loss is not None
        if self.train.label_smoothing and (regression or own):
            allowed = "has no effect in a regression, nor with a loss or a task of your own; leave it 0"
            raise ConfigError("train.label_smoothing", self.train.label_smoothing, allowed)

    def _takes_tables(self) -> bool:
        return self.model.library == "own" and self.model.name in FOR_TABLES


SCHEMAS: dict[str, dict[str, type]] = {  # group -> schema name -> class; every option YAML names its schema
    "optimizer": {"variant": OptimizerConfig},
    "model": {"model": ModelConfig},
    "data": {
        "images": DataConfig,
        "table": DataConfig,
        "synthetic": SyntheticConfig,
        "image_folder": ImageFolderConfig,
        "corrupted": CorruptedConfig,
    },
    "train": {"train": TrainConfig},
    "diagnostics": {"diagnostics": DiagnosticsConfig},
    "tracker": {"tracker": TrackerConfig},
}


def register_schemas() -> None:
    """Store every schema with Hydra, as `schema/<group>/<name>`, and those of whole configurations."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    config = OmegaConf.structured(Config)
    OmegaConf.set_struct(config.task.options, False)  # which keys it has is up to the user's function
    store.store(name="config_schema", node=config)
    store.store(name="measure_schema", node=MeasureConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    for group, schemas in SCHEMAS.items():
        for name, cls in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=cls)


def schema_of(node: Any) -> type | None:
    """Return the schema class of a composed config node, or None where the node has no schema."""
    from omegaconf import OmegaConf

    cls = OmegaConf.get_type(node)
    return cls if dataclasses.is_dataclass(cls) else None


def _build(cls: type, node: Any, prefix: str) -> Any:
    known = [f.name for f in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key in node:
        if key == "hydra" and not prefix:
            continue  # only there while Hydra resolves its own directories; jobs get the config without this key
        if key not in known:
            raise StrayKey(unknown_key(prefix + str(key), str(key), known, prefix.rstrip(".") or "the config"))
        if node._get_node(key)._is_missing():
            raise ConfigError(
                prefix + str(key),
                "???",
                f"must be given, for example {prefix}{key}=VALUE on the command line",
            )
        child = node[key]
        nested = schema_of(child) if hasattr(child, "_metadata") else None
        if nested is not None:
            values[key] = _build(nested, child, f"{prefix}{key}.")
        else:
            from omegaconf import OmegaConf

            values[key] = OmegaConf.to_container(child, resolve=True) if OmegaConf.is_config(child) else child
    return cls(**values)


def typed(cfg: Any) -> Config:
    """Turn a composed OmegaConf config into a plain, checked :class:`Config`.

    Raises:
        ConfigError: a key is unknown or missing, or a value is outside its range; the error is one line.
    """
    _check_schemas(cfg, tuple(SCHEMAS))
    return _build(Config, cfg, "")


def typed_measure(cfg: Any) -> MeasureConfig:
    """Turn a composed config of `fsamlab measure` into a plain, checked object, as :func:`typed` does."""
    _check_schemas(cfg, ("diagnostics",))
    found: MeasureConfig = _build(MeasureConfig, cfg, "")
    return found


def typed_evaluate(cfg: Any) -> EvaluateConfig:
    """Turn a composed config of `fsamlab evaluate` into a plain, checked object, as :func:`typed` does."""
    _check_schemas(cfg, ("data",))
    found: EvaluateConfig = _build(EvaluateConfig, cfg, "")
    return found


def _check_schemas(cfg: Any, groups: tuple[str, ...]) -> None:
    for group in groups:
        if schema_of(cfg[group]) is None:
            raise ConfigError(
                group,
                cfg[group],
                f"the option's YAML names no schema; start its defaults list with /schema/{group}/...@_here_",
            )


def to_plain(config: Config) -> dict[str, Any]:
    """Return a config as nested plain dictionaries, the form of config.yaml and of trackers."""
    return dataclasses.asdict(config)


Sections: TypeAlias = dict[tuple[str, str], Any]  # (group, text of the plain section) -> the section


def from_plain(plain: dict[str, Any], made: Sections | None = None) -> Config:
    """Rebuild a config from the dictionaries of :func:`to_plain`, as a run's config.yaml holds them.

    A key without effect keeps its recorded value, because the value is part of the run's identity.

    Args:
        plain: the dictionaries.
        made: the sections that were rebuilt before; new sections are added. The runs of a sweep share most sections,
            and the checks of a section take most of the time. Configs that share `made` share the sections too, so a
            caller must not change these configs.

    Raises:
        ConfigError: this version does not know a key, or refuses a value.
    """
    with recorded():
        return _from_plain(plain, {} if made is None else made)


def _from_plain(plain: dict[str, Any], made: Sections) -> Config:
    _refuse_stray(plain, {f.name for f in dataclasses.fields(Config)}, "")
    values = dict(plain)
    values["task"] = _task(values.get("task", {}))  # runs of versions without tasks have no such key
    for group in SCHEMAS:
        section = values.get(group)
        key = group, repr(section)  # the text tells 1 from 1.0 and from True, which are equal
        if key not in made:
            made[key] = section_from_plain(group, section)
        values[group] = made[key]
    try:
        return Config(**values)
    except TypeError as e:
        raise ConfigError("configuration", plain.get("name"), f"cannot be used: {e}") from e


def section_from_plain(group: str, section: Any) -> Any:
    """Rebuild one section of a config from its plain dictionary.

    Raises:
        ConfigError: this version does not know a key, or refuses a value.
    """
    schemas = SCHEMAS[group].values()
    if not isinstance(section, dict):
        raise ConfigError(group, section, "has to be a group of keys")
    fitting = [cls for cls in schemas if set(section) <= {f.name for f in dataclasses.fields(cls)}]
    if not fitting:
        _refuse_stray(section, {f.name for cls in schemas for f in dataclasses.fields(cls)}, f"{group}.")
    # A subclass accepts the section too and would add its own keys with defaults; the smallest schema is right.
    cls = min(fitting, key=lambda c: len(dataclasses.fields(c)))
    try:
        if isinstance(section.get("augment"), dict):
            section = {**section, "augment": AugmentConfig(**section["augment"])}
        return cls(**section)
    except TypeError as e:  # a field is missing, or a text stands where a number is compared
        raise ConfigError(group, section, f"cannot be used: {e}") from e


def _task(section: Any) -> TaskConfig:
    if not isinstance(section, dict):
        raise ConfigError("task", section, "has to be a group of keys")
    _refuse_stray(section, {f.name for f in dataclasses.fields(TaskConfig)}, "task.")
    return TaskConfig(**section)


def _refuse_stray(section: dict[str, Any], known: set[str], prefix: str) -> None:
    stray = sorted(set(section) - known, key=str)
    if stray:
        raise ConfigError(f"{prefix}{stray[0]}", section[stray[0]], "is no key of this version of fsamlab")
