"""What stands at the axes, panels and lines of figures."""

from __future__ import annotations

import pandas as pd

from fsamlab.results.frames import AT_BEST, AT_END

AXIS_LABELS = {
    AT_END: "test accuracy at the end (%)",
    AT_BEST: "test accuracy at best validation epoch (%)",
    "optimizer.rho": r"radius $\rho$",
    "optimizer.sigma": r"$\sigma$",
    "optimizer.lmbda": r"$\lambda$",
    "optimizer.ascent_batch_size": "batch size of the perturbation",
    "data.batch_size": "batch size",
    "data.label_noise": "label noise",
    "test/acc1": "test accuracy (%)",
    "val/acc1": "validation accuracy (%)",
    "train/acc1": "training accuracy (%)",
    "test/loss": "test loss (nats)",
    "val/loss": "validation loss (nats)",
    "train/loss": "training loss (nats)",
}
BASES = {"sgd": "base optimizer SGD", "adamw": "base optimizer AdamW"}


def scale(column: str) -> int:
    """Return 100 for accuracies, which are fractions in files and per cent in figures, else 1."""
    return 100 if "acc1" in column or column.endswith("_share") else 1


def axis_label(column: str) -> str:
    """Return the text of an axis."""
    return AXIS_LABELS.get(column, column + (" (%)" if scale(column) == 100 else ""))


def value_label(key: str, value: object) -> str:
    """Return a config value in texts, with its key where it is a number."""
    if pd.api.types.is_number(value):
        return f"{AXIS_LABELS.get(key, key)} {value:g}"
    return BASES.get(str(value), str(value)) if key == "optimizer.base" else str(value)
