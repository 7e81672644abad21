"""Data sets: `build_data` makes batches on the training device from the `data` section of a config."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fsamlab.config import DataConfig
from fsamlab.config.data import WITH_LABEL_FILES
from fsamlab.config.import_path import call_imported
from fsamlab.data.in_memory import build_in_memory
from fsamlab.data.interface import Batch, Data, EvalSource, TrainSource
from fsamlab.data.mixing import Mixing, mixing_of
from fsamlab.data.readers import read_cifar, read_digits, read_fashion_mnist, read_synthetic
from fsamlab.data.tables import build_table, read_diabetes

__all__ = ["DATASETS", "Batch", "Data", "EvalSource", "Mixing", "TrainSource", "build_data", "mixing_of"]


def _streamed(cfg: DataConfig, seed: int, device: torch.device, project_root: Path) -> Data:
    # torchvision: where the optimizer or the measurements alone are of use, torch and numpy are enough
    from fsamlab.data.streamed import build_streamed

    return build_streamed(cfg, seed, device, project_root)


DATASETS: dict[str, Callable[[DataConfig, int, torch.device, Path], Data]] = {
    "digits": partial(build_in_memory, read_digits),
    "fashion_mnist": partial(build_in_memory, read_fashion_mnist),
    "cifar10": partial(build_in_memory, read_cifar),
    "cifar100": partial(build_in_memory, read_cifar),
    "synthetic": partial(build_in_memory, read_synthetic),
    "imagenet": _streamed,
    "image_folder": _streamed,
    **dict.fromkeys(WITH_LABEL_FILES, _streamed),
    "diabetes": partial(build_table, read_diabetes),
}


def build_data(cfg: DataConfig, seed: int, device: torch.device, project_root: Path) -> Data:
    """Build the data set that `cfg` names.

    Args:
        cfg: the `data` section of the config.
        seed: determines split, label noise, order and augmentation.
        device: the device of the batches; in-memory sets are kept there.
        project_root: a relative `cfg.root` starts here.

    Raises:
        ConfigError: the name is unknown, files are missing, or sizes do not fit the set.
    """
    if cfg.import_path is not None:
        made: Data = call_imported("data.import_path", cfg.import_path, object, cfg, seed, device, project_root)
        return made
    cfg.check_name()
    return DATASETS[cfg.name](cfg, seed, device, project_root / Path(cfg.root).expanduser())
