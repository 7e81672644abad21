"""Running means for the rows, and the best validation epoch. Both are part of a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.task import Task
from fsamlab.train.unread import Number, read_together


class Sums:
    """Sums over samples, in float64 on the device. Only a row reads them, because reading waits for the device.

    On the CPU, where a read costs less than arithmetic on tensors, they are Python numbers, with the same bits.

    The sums start anew after each evaluation, so `train/loss` next to `val/loss` is the mean over the steps since the
    evaluation before. A row between two evaluations has the mean so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sums: dict[str, Number] = {}
        self._counts: dict[str, int] = {}

    def add(self, key: str, value: Tensor, n: int) -> None:
        """Add `value`, a mean over `n` samples, to the sum of `key`, without waiting for the device."""
        if key not in self._sums:
            self._sums[key] = self._number(0.0)
            self._counts[key] = 0
        own = value.item() if self.device.type == "cpu" else value.detach().double()
        self._sums[key] += own * n
        self._counts[key] += n

    def _number(self, value: float) -> Number:
        if self.device.type == "cpu":
            return value
        return torch.full((), value, dtype=torch.float64, device=self.device)  # tensor() would wait for the copy

    def means(self) -> dict[str, Number]:
        """Return the means since the last reset, unread."""
        return {key: total / self._counts[key] for key, total in self._sums.items()}

    def reset(self) -> None:
        """Start new sums."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, list[float]]:
        """Return sums and counts as exact numbers, key -> [sum, count]."""
        (sums,) = read_together(self._sums)
        return {key: [total, self._counts[key]] for key, total in sums.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Restore a :meth:`state_dict`."""
        self._sums = {k: self._number(float(v[0])) for k, v in state.items()}
        self._counts = {k: int(v[1]) for k, v in state.items()}


class Best:
    """The evaluation with the best headline metric on validation data; the first one, if several are equal.

    Test data have no influence on the choice.

    Args:
        task: names the metric, and says whether larger or smaller values are better.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.key = task, f"val/{task.headline}"
        self.row: dict[str, float] = {}
        self.improved = False

    def update(self, row: dict[str, float]) -> None:
        """Compare an evaluated row with the best row; `improved` tells whether the new row is the best so far."""
        value, best = row.get(self.key), self.row.get(self.key)  # a resumed run may have another headline
        self.improved = value is not None and (best is None or self.task.is_better(value, than=best))
        if self.improved:
            self.row = dict(row)

    def summary(self) -> dict[str, float]:
        """Return the evaluation of the best row as `best/...`; empty without a validation set."""
        metrics = dict.fromkeys(("loss", *self.task.evaluating().metric_names))
        names = [f"{of}{name}" for name in metrics for of in ("", "ema_")]  # ema_: of the averaged weights, if any
        keep = ("step", "epoch", *(f"{part}/{name}" for part in ("val", "test") for name in names))
        return {f"best/{k}": self.row[k] for k in keep if k in self.row}

    def state_dict(self) -> dict[str, float]:
        """Return the best row."""
        return dict(self.row)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore a :meth:`state_dict`."""
        self.row, self.improved = dict(state), False
