"""The seconds of a run, by the work that they were spent on. A resumed run continues to count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Counts the seconds of training, evaluation and measurements.

    Attributes:
        train: seconds of all optimizer steps.
        evaluation: seconds of all evaluations.
        diagnostics: seconds of all measurements.
        epochs: seconds of the optimizer steps of each epoch; the last number belongs to the epoch that is not complete.
    """

    def __init__(self) -> None:
        self.train = self.evaluation = self.diagnostics = 0.0
        self.epochs = [0.0]

    @property
    def total(self) -> float:
        """Seconds of all work."""
        return self.train + self.evaluation + self.diagnostics

    def add_step(self, seconds: float, *, ends_epoch: bool) -> None:
        """Count an optimizer step."""
        self.train += seconds
        self.epochs[-1] += seconds
        if ends_epoch:
            self.epochs.append(0.0)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count the time inside as evaluation, unless an error ends it: a resumed run evaluates again."""
        start = time.perf_counter()
        yield
        self.evaluation += time.perf_counter() - start

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Count the time inside as measurement, unless an error ends it: a resumed run measures again."""
        start = time.perf_counter()
        yield
        self.diagnostics += time.perf_counter() - start

    def step_ms(self, step: int, steps_per_epoch: int) -> float:
        """Return the milliseconds of an optimizer step, after `step` steps.

        A mean over all steps would depend on every moment in which the machine was busy with other work. Therefore the
        result is a median over the whole epochs; before the end of the first epoch it is the mean.
        """
        whole = self.epochs[:-1]
        if not whole:
            return 1000 * self.train / max(1, step)
        return 1000 * statistics.median(whole) / steps_per_epoch

    def cost(self) -> dict[str, float]:
        """Return the seconds for the summary of the run."""
        return {
            "cost/train_seconds": round(self.train, 3),
            "cost/eval_seconds": round(self.evaluation, 3),
            "cost/diagnostics_seconds": round(self.diagnostics, 3),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds; the keys are part of the trainer's state."""
        return {
            "train_seconds": self.train,
            "eval_seconds": self.evaluation,
            "diagnostics_seconds": self.diagnostics,
            "epoch_seconds": list(self.epochs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; other keys of `state` are not read."""
        self.train, self.evaluation = state["train_seconds"], state["eval_seconds"]
        self.diagnostics, self.epochs = state["diagnostics_seconds"], list(state["epoch_seconds"])
