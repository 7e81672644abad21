"""Texts of axes, panels and lines in figures."""

from __future__ import annotations

import pandas as pd

from fsamlab import metrics

CONFIG_LABELS = {
    "optimizer.rho": r"radius $\rho$",
    "optimizer.sigma": r"$\sigma$",
    "optimizer.lmbda": r"$\lambda$",
    "optimizer.ascent_batch_size": "batch size of the perturbation",
    "optimizer.ascent_share": "share of the batch in the ascent",
    "data.batch_size": "batch size",
    "data.label_noise": "label noise",
}
BASES = {"sgd": "base optimizer SGD", "adamw": "base optimizer AdamW"}


def axis_label(column: str, declared: metrics.Declared = ()) -> str:
    """Return the axis label of a metric, of a column of the summary, or of a config key."""
    known = CONFIG_LABELS.get(column) or metrics.axis(column, declared)
    return known or column + (" (%)" if metrics.of(column, declared).percent else "")


def value_label(key: str, value: object) -> str:
    """Return a config value as text; a number stands with the name of its key."""
    if pd.api.types.is_number(value):
        return f"{CONFIG_LABELS.get(key, key)} {value:g}"
    return BASES.get(str(value), str(value)) if key == "optimizer.base" else str(value)
