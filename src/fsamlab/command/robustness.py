"""Means over corruptions and severities, as the benchmarks of corrupted images define them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from fsamlab.config.corrupted import EXTRA, SEVERITIES, STANDARD

Values = Mapping[str, float]  # name of a metric -> value

# Error of AlexNet for each corruption of ImageNet-C, mean over the five severities: mCE divides by these errors
# (1903.12261). The numbers stand in the code of AugMix (github.com/google-research/augmix, imagenet.py), which names
# github.com/hendrycks/robustness as their source.
ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def mean(values: Sequence[Values]) -> dict[str, float]:
    """Return the mean of each metric that all values have."""
    shared = [key for key in values[0] if all(key in one for one in values)]
    return {key: fmean(one[key] for one in values) for key in shared}


def entries(data: str, by_severity: Mapping[str, Sequence[Values]]) -> dict[str, float]:
    """Return the keys of a row: for each corruption the mean over severities, and the means over corruptions.

    Args:
        data: name of the data set; begins all keys.
        by_severity: corruption -> metrics at severity 1 to 5; for a set without corruptions, "" -> one entry.

    Returns:
        `DATA/METRIC`, the mean over the fifteen standard corruptions, and `DATA/severity_S/METRIC`, both only if all
        fifteen are there; `DATA/extra/METRIC`, the mean over the four extra ones, only if all four are there;
        `DATA/CORRUPTION/METRIC`. For ImageNet-C also `DATA/CORRUPTION/ce` and their mean `DATA/mce`.
    """
    if "" in by_severity:
        return _keyed(data, by_severity[""][0])
    over_severities = {name: mean(values) for name, values in by_severity.items()}
    errors = {} if data != "imagenet_c" else _relative_errors(over_severities)
    whole: dict[str, float] = {}
    if all(name in by_severity for name in STANDARD):
        whole |= _keyed(data, mean([over_severities[name] for name in STANDARD]))
        if errors:
            whole[f"{data}/mce"] = fmean(errors[name] for name in STANDARD)
        for number, severity in enumerate(SEVERITIES):
            whole |= _keyed(f"{data}/severity_{severity}", mean([by_severity[name][number] for name in STANDARD]))
    if all(name in by_severity for name in EXTRA):
        whole |= _keyed(f"{data}/extra", mean([over_severities[name] for name in EXTRA]))
    for name, values in over_severities.items():
        whole |= _keyed(f"{data}/{name}", values)
        if name in errors:
            whole[f"{data}/{name}/ce"] = errors[name]
    return whole


def _relative_errors(over_severities: Mapping[str, Values]) -> dict[str, float]:
    """Return the corruption errors: the error summed over the severities over AlexNet's (1903.12261)."""
    found = over_severities.items()
    return {k: (1 - v["acc1"]) / ALEXNET_ERROR[k] for k, v in found if k in ALEXNET_ERROR and "acc1" in v}


def _keyed(prefix: str, values: Values) -> dict[str, float]:
    return {f"{prefix}/{key}": value for key, value in values.items()}
