"""The schemas of data sets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import ClassVar

from fsamlab.checks import (
    COUNT,
    MISSING,
    ConfigError,
    Number,
    check_fields,
    did_you_mean,
    function_path,
    is_recorded,
    label,
    listed,
    location,
    number,
    text,
    word,
)

EVALUATION_ONLY = ("cifar10c", "cifar100c", "imagenet_c")  # config/corrupted.py has their schema
TABLES = ("diabetes",)  # data sets with columns of numbers in place of images, and the targets of a regression
OF_IMAGES = ("mean", "std")  # keys that have no effect on a table
OF_LABELS = ("label_noise", "noise_type", "noise_includes_true", "human_labels", "imbalance")
HUMAN_FILES = {"cifar10": "CIFAR-10_human.pt", "cifar100": "CIFAR-100_human.pt"}  # of CIFAR-N, as published
HUMAN_LABELS = {"cifar10": ("aggregate", "worst", "random1", "random2", "random3"), "cifar100": ("fine",)}
WITH_LABEL_FILES = ("flowers102", "oxford_pets", "stanford_cars")  # their images are streamed
# timm reads a wrong section as something else, or fails with an assertion: the sections are checked here
RAND_AUGMENT = re.compile(
    r"rand(-(m\d{1,2}|n[1-9]|p(0(\.\d+)?|1(\.0+)?)|mstd\d+(\.\d+)?|mmax\d{1,2}|inc[01]|t(weights|3aw|3a)))*"
)
RAND_AUGMENT_FORM = (
    "must have timm's form, for example rand-m9-mstd0.5-inc1: rand, then -m9 (magnitude), -n2 (operations for each "
    "image), -p0.5 (probability of each), -mstd0.5, -mmax10, -inc1, -tweights, -t3a or -t3aw, in any order"
)
MAX_PIXELS = 2**31  # of a synthetic set, which takes 8 GB then


@dataclass
class AugmentConfig:
    """Augmentation of the training part. Crop, flip and cutout are for sets in memory; streamed sets have their own.

    Attributes:
        OF_MEMORY: the keys for sets in memory.
    """

    OF_MEMORY: ClassVar[tuple[str, ...]] = ("crop_padding", "flip", "cutout", "cutout_prob")

    crop_padding: int = number(0, 0, 1024)  # zero padding in pixels before a random crop of the original size
    flip: bool = False  # horizontal, probability 1/2
    cutout: int = number(0, 0, 1024)  # side of the square in pixels; 0 is off
    cutout_prob: float = number(0.5, 0, 1)
    mixup: float = number(0.0, 0, 1000)  # alpha of mixup's Beta(alpha, alpha); 0 is off
    cutmix: float = number(0.0, 0, 1000)  # alpha of CutMix; 0 is off
    mix_prob: float = number(1.0, 0, 1)  # share of the batches that are mixed
    switch_prob: float = number(0.5, 0, 1)  # share of CutMix among the mixed batches, where both are on
    randaugment: str | None = text(None, 100)  # in timm's form, rand-m9-mstd0.5-inc1; null is off

    def __post_init__(self) -> None:
        check_fields("data.augment.", self)
        if self.randaugment is not None and not RAND_AUGMENT.fullmatch(self.randaugment):
            raise ConfigError("data.augment.randaugment", self.randaugment, RAND_AUGMENT_FORM)

    @property
    def mixes(self) -> bool:
        """Return whether batches are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def changed(self) -> dict[str, object]:
        """Return the keys whose values differ from the defaults, with their values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


@dataclass
class DataConfig:
    """A data set with its split, label noise and augmentation.

    Attributes:
        NAMES: the data sets of this package that use this schema.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("digits", "fashion_mnist", "cifar10", "cifar100", *TABLES)

    name: str = label(MISSING, 200)
    import_path: str | None = function_path(None)  # package.module:function for a data set of one's own
    root: str = location("data")  # relative to the project's directory
    download: bool = False
    batch_size: int = number(64, 1, COUNT)
    eval_batch_size: int = number(1024, 1, COUNT)
    drop_last: bool = False
    num_workers: int = number(0, 0, 256)  # streamed data only; in-memory sets need none
    # Number of training images to keep, before imbalance cuts the tail; null keeps all that the split leaves.
    train_size: int | None = number(None, 1, COUNT)
    val_size: int = number(0, 0, COUNT)  # samples held out from the training part by seed; their labels stay clean
    test_size: int | None = number(None, 1, COUNT)  # only for sets without a test part of their own
    label_noise: float = number(0.0, 0, 1)  # share of the training labels that are redrawn
    noise_type: str = word("symmetric", "symmetric", "asymmetric", "instance", "human")
    noise_includes_true: bool = True  # symmetric: the draw may return the true class
    # noise_type=human: which labels of CIFAR-N; the file is looked for in root
    human_labels: str | None = word(None, *HUMAN_LABELS["cifar10"], *HUMAN_LABELS["cifar100"])
    # images of the first class over those of the last class of the training part, which becomes long-tailed; 1 is off
    imbalance: float = number(1.0, 1, 10**6)
    mean: list[float] = listed([0.0], Number(-1e6, 1e6), 1)  # per channel, for pixels in 0..1
    std: list[float] = listed([1.0], Number(1e-6, 1e6), 1)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        k = "data."
        check_fields(k, self)
        if len(self.mean) != len(self.std):
            raise ConfigError(k + "mean", self.mean, f"must have as many channels as data.std={self.std}")
        if not is_recorded():
            if self.is_table:
                self._check_table()
            if self.import_path is None:
                self._check_human()

    @property
    def is_table(self) -> bool:
        """Return whether the set is a table of this package."""
        return self.import_path is None and self.name in TABLES

    def _check_table(self) -> None:
        default = DataConfig(name="default")
        for key, value in self.augment.changed().items():
            raise ConfigError(f"data.augment.{key}", value, f"is for images; data={self.name} has none: leave it out")
        for key in (*OF_IMAGES, *OF_LABELS):
            value = getattr(self, key)
            if value != getattr(default, key):
                kind = "images" if key in OF_IMAGES else "the labels of a classification"
                raise ConfigError(f"data.{key}", value, f"is for {kind}; data={self.name} has none: leave it out")

    def _check_human(self) -> None:
        allowed = HUMAN_LABELS.get(self.name, ())
        if self.noise_type != "human":
            if self.human_labels is not None:
                raise ConfigError("data.human_labels", self.human_labels, "is for data.noise_type=human; leave it out")
            return
        if not allowed:
            sets = ", ".join(f"data={name}" for name in HUMAN_LABELS)
            raise ConfigError("data.noise_type", "human", f"data={self.name} has no labels of CIFAR-N; {sets} have")
        if self.label_noise:
            said = "has no effect with data.noise_type=human, whose labels are what people gave; leave it 0"
            raise ConfigError("data.label_noise", self.label_noise, said)
        if self.human_labels not in allowed:
            said = f"must be {'one of ' * (len(allowed) > 1)}{', '.join(allowed)} with data={self.name}"
            raise ConfigError("data.human_labels", self.human_labels, said)

    def check_name(self) -> None:
        """Refuse to train on a data set that this package does not have, has in another schema, or has for evaluation.

        Raises:
            ConfigError: lists the names.
        """
        if self.import_path is None and self.name in EVALUATION_ONLY:
            allowed = f"is for evaluation alone: `fsamlab evaluate RUN data={self.name}`; train on another data set"
            raise ConfigError("data", self.name, allowed)
        if self.import_path is not None or self.name in self.NAMES:
            return
        known = [name for schema in (DataConfig, SyntheticConfig, ImageFolderConfig) for name in schema.NAMES]
        if self.name in known:
            allowed = f"has other keys; choose the data set with data={self.name}"
        else:
            hint = did_you_mean(self.name, known)
            allowed = f"must be one of {', '.join(known)}{hint}, or set data.import_path"
        raise ConfigError("data.name", self.name, allowed)


@dataclass
class SyntheticConfig(DataConfig):
    """Gaussian images with class means: for tests and dry runs."""

    NAMES = ("synthetic",)

    num_samples: int = number(512, 1, 10**7)
    num_classes: int = number(10, 2, 10**5)
    image_size: int = number(8, 1, 1024)
    channels: int = number(1, 1, 1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        pixels = max(self.num_samples, self.num_classes) * self.channels * self.image_size**2
        if pixels > MAX_PIXELS:
            allowed = (
                f"{pixels:.2g} numbers with data.image_size and data.channels; at most {MAX_PIXELS:.2g} are allowed"
            )
            raise ConfigError("data.num_samples", self.num_samples, allowed)


@dataclass
class ImageFolderConfig(DataConfig):
    """Images that workers stream: in train/<class>/ and val/<class>/ folders, or with label files."""

    NAMES = ("imagenet", "image_folder", *WITH_LABEL_FILES)

    image_size: int = number(224, 1, 4096)
    resize: int = number(256, 1, 8192)  # shorter side before the centre crop of evaluation
    min_scale: float = number(0.08, 0, 1, open_low=True)  # least area of the random resized crop

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize < self.image_size:
            allowed = f"must be >= data.image_size={self.image_size}, the size of the crop"
            raise ConfigError("data.resize", self.resize, allowed)
        if self.noise_type == "instance":
            allowed = f"needs the pixels of all images in memory; data={self.name} has symmetric or asymmetric noise"
            raise ConfigError("data.noise_type", self.noise_type, allowed)
