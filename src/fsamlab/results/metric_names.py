"""How a page names and arranges the metrics; docs/metrics.md defines them."""

from __future__ import annotations

from collections.abc import Iterable

from fsamlab.results.conventions import AT_CHECKPOINT

GROUPS = ("accuracy", "loss", "sharpness", "curvature", "perturbation", "noise", "schedule and cost")
DIRECTIONS = ("sam", "fsam", "sam_full", "sam_component", "sam_noise", "sam_db", "random")  # of friendliness
RATIOS = {  # the mean of such a ratio over runs is biased: the ratio of the means is shown
    f"{prefix}noise/scale": (f"{prefix}noise/trace_sigma", f"{prefix}noise/grad_sq")
    for prefix in ("", AT_CHECKPOINT, "final/")
}
TITLES = {
    "test/acc1": "test accuracy, %",
    "val/acc1": "validation accuracy, %",
    "train/acc1": "training accuracy in the first pass, %",
    "train/loss": "training loss",
    "train/loss_perturbed": "training loss at w + eps",
    "val/loss": "validation loss",
    "test/loss": "test loss",
    "sharpness/one_step": "one-step sharpness",
    "sharpness/one_step_curvature": "one-step sharpness, curvature part",
    "sharpness/m_sharpness": "m-sharpness",
    "sharpness/worst_case": "worst-case sharpness",
    "sharpness/m_worst_case": "worst-case sharpness, mean over batches of m",
    "sharpness/average_case": "average-case sharpness",
    "curvature/lambda_max": "largest Hessian eigenvalue",
    "curvature/trace": "Hessian trace",
    "perturbation/cos_ema": "cos(a, m): gradient and EMA",
    "perturbation/d_ratio": "|d| / |a|",
    "perturbation/cos_eps": "cos(eps, a)",
    "perturbation/grad_norm": "|a|, norm of the ascent gradient",
    "perturbation/full_share": "full gradient's share of |g_B|^2 (sign lost), %",
    "perturbation/cos_batch_full": "cos(g_B, g): batch and full gradient",
    "perturbation/cos_d_full": "cos(d, g): what F-SAM's direction has left of g",
    "perturbation/cos_ema_full": "cos(m, g): EMA and full gradient",
    "noise/scale": "noise scale tr Sigma / |mu|^2, samples (ratio of means)",
    "noise/trace_sigma": "tr Sigma",
    "noise/grad_sq": "|mu|^2, unbiased",
    "train/lr": "learning rate",
    "time/step_ms": "time of a step, ms",
}


def group(key: str) -> str:
    """Return the section a metric belongs to."""
    prefix, _, name = key.removeprefix(AT_CHECKPOINT).partition("/")
    if prefix in GROUPS:
        return prefix
    if prefix in ("train", "val", "test") and name.startswith(("acc", "loss")):
        return "accuracy" if name.startswith("acc") else "loss"
    return GROUPS[-1]


def title(key: str) -> str:
    """Return what stands above a metric's chart."""
    measured = key.startswith(AT_CHECKPOINT)
    name = key.removeprefix(AT_CHECKPOINT)
    text = TITLES.get(name, f"{name}, %" if name.endswith("_share") else name)
    return text + (" (measured at a checkpoint)" if measured else "")


def is_headline(key: str) -> bool:
    """Whether a metric is shown before one asks for all of them."""
    return key.removeprefix(AT_CHECKPOINT) in TITLES


def ordered(keys: Iterable[str]) -> list[str]:
    """Return metrics in the order of a page: by group, the headlines first and in the order of TITLES."""
    rank = {key: i for i, key in enumerate(TITLES)}
    return sorted(keys, key=lambda k: (GROUPS.index(group(k)), rank.get(k.removeprefix(AT_CHECKPOINT), len(rank)), k))


def is_accuracy(key: str) -> bool:
    """Whether a metric is a fraction that is shown in per cent."""
    return key.endswith("/acc1")
