"""The interface between the training loop and the work of a run around the loop: rows, checkpoints, signals."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """The trainer calls these methods; each method may raise to leave the loop."""

    def poll(self) -> None:
        """Act on signals; called between the batches of an evaluation and of a pass over the full training set."""

    def stopping(self) -> bool:
        """Return whether poll() would raise.

        Inside a measurement the weights may be moved, so the trainer asks first and calls poll() after it has restored
        the weights.
        """

    def row(self, row: dict[str, float]) -> None:
        """Take one finished row: metric key -> value."""

    def boundary(self) -> None:
        """Write a checkpoint if it is time; called after each step, with unperturbed weights."""
