"""Small tables of numbers: columns and values on the training device, standardised by the training part."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.cut import EVERYTHING, Cut
from fsamlab.data.in_memory import InMemoryEval, InMemoryTrain
from fsamlab.data.interface import Batch, Data
from fsamlab.data.split import check_batch_size, facts_of, make_split
from fsamlab.data.transfer import to_device

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """Rows of a table: columns float (n, columns), values float (n, values)."""

    columns: Tensor
    values: Tensor

    def at(self, positions: Tensor) -> Table:
        """Return the rows at `positions`."""
        return Table(self.columns[positions], self.values[positions])

    def to(self, device: torch.device) -> Table:
        """Return the table on another device."""
        return Table(self.columns.to(device), self.values.to(device))

    def batch(self, indices: Tensor) -> Batch:
        """Return the rows at `indices`, on their device, as a batch."""
        chosen = self.at(indices)
        return Batch(chosen.columns, chosen.values, indices)


Reader = Callable[[], Table]


def read_diabetes() -> Table:
    """Return scikit-learn's diabetes: 442 patients, 10 columns, progression of the disease after a year.

    The columns are not scaled. scikit-learn's own scaling would use statistics of all 442 rows, test rows included.
    """
    from sklearn.datasets import load_diabetes

    columns, values = load_diabetes(return_X_y=True, scaled=False)
    return Table(torch.from_numpy(columns), torch.from_numpy(values)[:, None])


def standardised(rows: Tensor, train: Tensor) -> Tensor:
    """Return float32 (x - mean) / std, column by column, with the statistics of `train` (n, columns), in float64."""
    std, mean = torch.std_mean(train.double(), 0, correction=0)
    return ((rows.double() - mean) / torch.where(std > 0, std, 1.0)).float()


class TableTrain(InMemoryTrain):
    """Implements :class:`~fsamlab.data.interface.TrainSource` on a table: the order of image sets, no augmentation."""

    def __init__(self, rows: Table, cfg: DataConfig, seed: int, device: torch.device) -> None:
        self.num_samples = len(rows.values)
        self._cfg, self._seed, self._device = cfg, seed, device
        self._rows = rows.to(device)

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions."""
        return self._batch(indices)

    def _batch(self, indices: Tensor, *stream: int, cut: Cut = EVERYTHING) -> Batch:
        indices, among = cut.taken(to_device(indices, self._device))
        return among.marked(self._rows.batch(indices))


class TableEval(InMemoryEval):
    """Implements :class:`~fsamlab.data.interface.EvalSource` on a table."""

    def __init__(self, rows: Table, cfg: DataConfig, device: torch.device) -> None:
        self.num_samples = len(rows.values)
        self._cfg, self._device = cfg, device
        self._rows = rows.to(device)

    def _batch(self, indices: Tensor) -> Batch:
        return self._rows.batch(indices)


def build_table(read: Reader, cfg: DataConfig, seed: int, device: torch.device, root: Path) -> Data:
    """Read a table, split it by seed, standardise columns and values by the training part's mean and deviation.

    The squared error is therefore in units of the variance of the training targets.

    Raises:
        ConfigError: sizes that do not fit the table.
    """
    if cfg.num_workers:
        log.warning("data.num_workers=%d has no effect: %s is held in memory", cfg.num_workers, cfg.name)
    raw = read()
    split = make_split(len(raw.values), False, cfg, seed)
    check_batch_size(len(split.train), cfg)
    train = raw.at(split.train)
    if len(train.values.unique()) < 2:
        raise ConfigError("data.train_size", cfg.train_size, "all training targets are equal; take more samples")
    table = Table(standardised(raw.columns, train.columns), standardised(raw.values, train.values))
    assert split.test is not None  # tables have no test part of their own
    return Data(
        train=TableTrain(table.at(split.train), cfg, seed, device),
        val=TableEval(table.at(split.val), cfg, device) if cfg.val_size else None,
        test=TableEval(table.at(split.test), cfg, device),
        num_classes=raw.values.shape[1],
        in_channels=raw.columns.shape[1],
        facts=facts_of(split, len(split.test), train.values, train.values),
        task="regression",
    )
