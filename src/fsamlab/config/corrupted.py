"""The data sets of corrupted images: for the evaluation of trained networks alone.

Every corruption exists at five severities. Source of CIFAR-10-C, CIFAR-100-C and ImageNet-C: Hendrycks & Dietterich,
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", 2019, arXiv 1903.12261.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fsamlab.checks import ConfigError, Label, check_fields, did_you_mean, listed
from fsamlab.config.data import EVALUATION_ONLY, DataConfig

SEVERITIES = (1, 2, 3, 4, 5)
STANDARD = (  # the fifteen of the published means, in the order of the paper's tables
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # for validation; part of no published mean
LABELS = "labels.npy"
CIFAR_FOLDERS = {"cifar10c": "CIFAR-10-C", "cifar100c": "CIFAR-100-C"}  # as the archives unpack
CIFAR_CLASSES = {"cifar10c": 10, "cifar100c": 100}
GROUPS = ("", "noise", "blur", "weather", "digital", "extra")  # folders of ImageNet-C's archives, or none
SOURCES = {
    "cifar10c": "https://zenodo.org/records/2535967",
    "cifar100c": "https://zenodo.org/records/3555552",
    "imagenet_c": "https://zenodo.org/records/2235448",
}


@dataclass
class CorruptedConfig(DataConfig):
    """Corrupted test images, for `fsamlab evaluate`.

    Attributes:
        corruptions: which corruptions to evaluate. Empty means the fifteen standard ones, which have to be there, and
            the four extra ones as far as they are there.
    """

    NAMES = EVALUATION_ONLY

    corruptions: list[str] = listed([], Label(200), most=len(STANDARD + EXTRA))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields("data.", self)
        if self.download:
            allowed = f"fsamlab does not download {self.name}; unpack {SOURCES.get(self.name)} into data.root"
            raise ConfigError("data.download", True, allowed)
        for name in self.corruptions:
            if name not in STANDARD + EXTRA:
                hint = did_you_mean(name, [*STANDARD, *EXTRA])
                allowed = f"must be out of {', '.join(STANDARD + EXTRA)}{hint}"
                raise ConfigError("data.corruptions", name, allowed)
        if len(set(self.corruptions)) < len(self.corruptions):
            raise ConfigError("data.corruptions", self.corruptions, "must name each corruption once")

    def found(self, root: Path) -> dict[str, Path]:
        """Return {corruption: file of CIFAR-C or folder of ImageNet-C} for everything that is to be evaluated.

        Args:
            root: the absolute `data.root`.

        Raises:
            ConfigError: a corruption is not there, or ImageNet-C lacks a severity of it.
        """
        places = {name: self._place(root, name) for name in self.corruptions or (*STANDARD, *EXTRA)}
        needed = self.corruptions or STANDARD
        missing = [name for name in needed if places[name] is None]
        folder = root / CIFAR_FOLDERS.get(self.name, "")
        if self.name in CIFAR_FOLDERS and not (folder / LABELS).is_file():
            missing.insert(0, LABELS)
        if missing:
            form = "CORRUPTION.npy and labels.npy" if self.name in CIFAR_FOLDERS else "CORRUPTION/SEVERITY/CLASS/*.JPEG"
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            what = f"{self.name}: {', '.join(missing[:3])}{more} not found in {folder}/, which must hold {form}"
            remedy = f"unpack {SOURCES[self.name]} there, or give another data.root"
            raise ConfigError("data.root", self.root, f"{what}; {remedy}")
        found = {name: place for name, place in places.items() if place is not None}
        for place in found.values():
            for severity in SEVERITIES if place.is_dir() else ():
                if not (place / str(severity)).is_dir():
                    allowed = f"{place / str(severity)} is missing; unpack the archive again"
                    raise ConfigError("data.root", self.root, allowed)
        return found

    def _place(self, root: Path, corruption: str) -> Path | None:
        if self.name in CIFAR_FOLDERS:
            file = root / CIFAR_FOLDERS[self.name] / f"{corruption}.npy"
            return file if file.is_file() else None
        return next((p for group in GROUPS if (p := root / group / corruption).is_dir()), None)
