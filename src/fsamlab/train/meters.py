"""Running means of a row, and the best validation epoch; both survive a resume."""

from __future__ import annotations

import torch
from torch import Tensor


class Sums:
    """Sample-weighted sums in float64 on the device, read once for each row.

    The sums run from one evaluation to the next, so `train/loss` beside `val/loss` is the mean over the
    steps between; a row in between shows the mean so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, key: str, value: Tensor, n: int) -> None:
        """Add `value`, a mean over `n` samples."""
        if key not in self._sums:
            self._sums[key] = torch.zeros((), dtype=torch.float64, device=self.device)
            self._counts[key] = 0
        self._sums[key] += value.detach().double() * n
        self._counts[key] += n

    def means(self) -> dict[str, float]:
        """Return the means since the last reset."""
        return {key: float(total) / self._counts[key] for key, total in self._sums.items()}

    def reset(self) -> None:
        """Start anew."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, list[float]]:
        """Return sums and counts as exact numbers."""
        return {key: [float(total), self._counts[key]] for key, total in self._sums.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Restore a :meth:`state_dict`."""
        self._sums = {k: torch.tensor(v[0], dtype=torch.float64, device=self.device) for k, v in state.items()}
        self._counts = {k: int(v[1]) for k, v in state.items()}


class Best:
    """The evaluation with the highest validation accuracy (the first of equals); never chosen on test data."""

    def __init__(self) -> None:
        self.row: dict[str, float] = {}
        self.improved = False

    def update(self, row: dict[str, float]) -> None:
        """Take an evaluated row into account; `improved` tells whether it is the best so far."""
        accuracy = row.get("val/acc1")
        self.improved = accuracy is not None and (not self.row or accuracy > self.row["val/acc1"])
        if self.improved:
            self.row = dict(row)

    def summary(self) -> dict[str, float]:
        """Return the best row's evaluation as `best/...`; empty without a validation split."""
        keep = ("step", "epoch", "val/loss", "val/acc1", "test/loss", "test/acc1")
        return {f"best/{k}": self.row[k] for k in keep if k in self.row}

    def state_dict(self) -> dict[str, float]:
        """Return the best row."""
        return dict(self.row)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore a :meth:`state_dict`."""
        self.row, self.improved = dict(state), False
