"""Which measured values depend on which conventions; docs/metrics.md defines them. Imports nothing.

A value that was measured on samples means something only beside the `diagnostics/...` it was measured under. There
are two families of such values, each with conventions of its own: those of the loss on fixed samples, and those of
training's batches. A third family, recorded from what a step has anyway, has none.
"""

from __future__ import annotations

FREE = frozenset(  # recorded from what a step has anyway: no samples, so no conventions to agree in
    f"perturbation/{name}"
    for name in (
        *("floored_share", "skipped_share", "grad_norm", "ema_norm", "cos_ema", "d_ratio", "cos_eps"),
        *("ema_coefficient", "full_norm", "cos_full", "full_coefficient", "loss_clean", "loss_perturbed"),
    )
)
OF_BATCHES = ("perturbation/", "noise/", "curvature/along_")
MEASURED = (*OF_BATCHES, "sharpness/", "curvature/")
FAMILIES = ("sharpness and curvature", "decomposition and noise")
FREE_FAMILY = "scalars of a step"
AT_CHECKPOINT = "measured/"  # before a key: by `fsamlab measure`, not while training


def family(key: str) -> str | None:
    """Return the family of a metric's key or a summary column, of the conventions' own too; None where there is none.

    What was measured at a checkpoint is another family than what was measured while training.
    """
    source = AT_CHECKPOINT if key.startswith(AT_CHECKPOINT) else ""
    name = key.removeprefix(source).removeprefix("final/")
    group, _, field = name.partition("/")
    if group == "diagnostics":
        kind = FAMILIES[field.startswith("perturbation_") or field == "num_batches"]
    elif name in FREE:
        kind = FREE_FAMILY
    elif name.startswith(MEASURED):
        kind = FAMILIES[name.startswith(OF_BATCHES)]
    else:
        return None
    return kind + (" at checkpoints" if source else "")


def is_convention(key: str) -> bool:
    """Return whether a column is a convention, no value."""
    return key.removeprefix(AT_CHECKPOINT).startswith("diagnostics/")
