"""The schemas of data sets."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsamlab.config.checks import MISSING, ConfigError, in_range, one_of


@dataclass
class AugmentConfig:
    """Whole-batch augmentation of in-memory image sets; every image draws its own values."""

    crop_padding: int = 0  # zero padding in pixels before a random crop of the original size
    flip: bool = False  # horizontal, probability 1/2
    cutout: int = 0  # side of the square in pixels; 0 is off
    cutout_prob: float = 0.5

    def __post_init__(self) -> None:
        in_range("data.augment.crop_padding", self.crop_padding, 0)
        in_range("data.augment.cutout", self.cutout, 0)
        in_range("data.augment.cutout_prob", self.cutout_prob, 0, 1)


@dataclass
class DataConfig:
    """A data set with its split, label noise and augmentation."""

    name: str = MISSING
    import_path: str | None = None  # package.module:function for a data set of one's own
    root: str = "data"  # relative to the project's directory
    download: bool = False
    batch_size: int = 64
    eval_batch_size: int = 1024
    drop_last: bool = False
    num_workers: int = 0  # streamed data only; in-memory sets need none
    train_size: int | None = None  # keep so many training images; null: all that the split leaves
    val_size: int = 0  # held out from the training part, by seed; labels stay clean
    test_size: int | None = None  # only for sets without a test part of their own
    label_noise: float = 0.0  # share of training labels that are redrawn
    noise_type: str = "symmetric"  # symmetric | asymmetric
    noise_includes_true: bool = True  # symmetric: the draw may return the true class
    mean: list[float] = field(default_factory=lambda: [0.0])  # per channel, for pixels in 0..1
    std: list[float] = field(default_factory=lambda: [1.0])
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        k = "data."
        in_range(k + "batch_size", self.batch_size, 1)
        in_range(k + "eval_batch_size", self.eval_batch_size, 1)
        in_range(k + "num_workers", self.num_workers, 0)
        in_range(k + "train_size", self.train_size, 1)
        in_range(k + "val_size", self.val_size, 0)
        in_range(k + "test_size", self.test_size, 1)
        in_range(k + "label_noise", self.label_noise, 0, 1)
        one_of(k + "noise_type", self.noise_type, ("symmetric", "asymmetric"))
        if len(self.mean) != len(self.std):
            raise ConfigError(k + "mean", self.mean, f"must have as many channels as data.std={self.std}")
        for value in self.std:
            in_range(k + "std", value, 0, open_low=True)


@dataclass
class SyntheticConfig(DataConfig):
    """Gaussian images with class means: for tests and dry runs."""

    num_samples: int = 512
    num_classes: int = 10
    image_size: int = 8
    channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("num_samples", 1), ("num_classes", 2), ("image_size", 1), ("channels", 1)):
            in_range("data." + name, getattr(self, name), low)


@dataclass
class ImageFolderConfig(DataConfig):
    """Images in train/<class>/ and val/<class>/ folders, streamed by workers."""

    image_size: int = 224
    resize: int = 256  # shorter side before the centre crop of evaluation
    min_scale: float = 0.08  # least area of the random resized crop

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("data.image_size", self.image_size, 1)
        in_range("data.resize", self.resize, self.image_size)
        in_range("data.min_scale", self.min_scale, 0, 1, open_low=True)
