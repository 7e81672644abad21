"""Data sets for the evaluation of a trained network: corrupted test images, and the test part of any other set.

The network sees the images as in its training: normalised by the mean and standard deviation of its run, at its size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fsamlab.config import ConfigError, CorruptedConfig, DataConfig, ImageFolderConfig
from fsamlab.config.corrupted import CIFAR_CLASSES, CIFAR_FOLDERS, LABELS, SEVERITIES
from fsamlab.config.data import WITH_LABEL_FILES
from fsamlab.data import build_data
from fsamlab.data.in_memory import Images, InMemoryEval
from fsamlab.data.interface import Data, EvalSource
from fsamlab.storage.reading import Damaged, damaged

MEND = "unpack the archive again"


@dataclass(frozen=True)
class Part:
    """A test set, and what the network has to fit.

    Attributes:
        source: the batches.
        num_classes: number of classes that the labels count.
        shape: channels, height and width of the images; None for a part of which this is not known.
        classes: names of the classes; empty where the set has none.
    """

    source: EvalSource
    num_classes: int
    shape: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()


Opener = Callable[[], Iterator[Part]]  # opens one part for each severity; a set without corruptions has one part


@dataclass(frozen=True)
class Trained:
    """What a network was trained on, as far as another data set has to fit it.

    Attributes:
        data: the data of the run.
        cfg: the `data` section of the run.
        seed: of the run.
    """

    data: Data
    cfg: DataConfig
    seed: int

    def seen(self, cfg: DataConfig) -> DataConfig:
        """Return the section of another data set with the normalisation, and so the pixels, of the training."""
        return dataclasses.replace(cfg, mean=list(self.cfg.mean), std=list(self.cfg.std))

    def check(self, cfg: DataConfig, part: Part) -> None:
        """Refuse a data set that the network does not fit.

        Raises:
            ConfigError: other classes, or images of another shape.
        """
        ours = self.data
        if self.cfg.is_table or ours.task != "classification":
            raise ConfigError("data", cfg.name, f"has classes; the run was trained on {self.cfg.name}, a {ours.task}")
        if part.num_classes != ours.num_classes:
            allowed = f"has {part.num_classes} classes; the run was trained on {self.cfg.name} with {ours.num_classes}"
            raise ConfigError("data", cfg.name, allowed)
        shape = (ours.in_channels, *(ours.image_size or ()))
        if part.shape is not None and part.shape[: len(shape)] != shape:
            theirs, own = ("x".join(map(str, s)) for s in (part.shape, shape))
            allowed = f"has images of {theirs}; the run was trained on {self.cfg.name} with images of {own}"
            raise ConfigError("data", cfg.name, allowed)
        if part.classes and ours.classes and part.classes != ours.classes:
            theirs, own = next((a, b) for a, b in zip(part.classes, ours.classes) if a != b)
            allowed = f"has other class folders than {self.cfg.name} of the run: {theirs!r} where the run has {own!r}"
            raise ConfigError("data", cfg.name, allowed)


def evaluation_parts(
    cfg: DataConfig, trained: Trained, device: torch.device, project_root: Path
) -> Mapping[str, Opener]:
    """Return {corruption: opener of its severities}; a set without corruptions has the one key "".

    The parts are opened one after the other, so that one severity at a time is in memory.

    Raises:
        ConfigError: files are missing. An opener raises it for a set that the network does not fit.
        Damaged: an opener cannot read a file.
    """
    cfg = trained.seen(cfg)
    root = project_root / Path(cfg.root).expanduser()

    def checked(opener: Opener) -> Iterator[Part]:
        for part in opener():
            trained.check(cfg, part)
            yield part

    found: dict[str, Opener] = {}
    if isinstance(cfg, CorruptedConfig):
        of_folder = cfg.name not in CIFAR_FOLDERS
        for name, place in cfg.found(root).items():
            read = partial(_severities_of_folder, trained) if of_folder else _severities_of_file
            found[name] = partial(read, cfg, place, device)
    elif cfg.import_path is None and isinstance(cfg, ImageFolderConfig):
        cfg = _sized(trained, cfg)
        if cfg.name in WITH_LABEL_FILES:
            found[""] = partial(_test_part, trained, cfg, device, project_root)
        else:
            found[""] = partial(_validation_folder, cfg, root / "val", device)
    else:
        found[""] = partial(_test_part, trained, cfg, device, project_root)
    return {name: partial(checked, opener) for name, opener in found.items()}


def _severities_of_file(cfg: CorruptedConfig, path: Path, device: torch.device) -> Iterator[Part]:
    """Yield the five severities of CIFAR-C: equal blocks of one file of images, uint8 (n, height, width, channels)."""
    images, labels = _array(path), _array(path.parent / LABELS)
    num_classes = CIFAR_CLASSES[cfg.name]
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        form = f"has the form {images.dtype} {images.shape}, not uint8 (n, height, width, channels)"
        raise damaged(path, form, MEND)
    if labels.shape != images.shape[:1] or len(labels) % len(SEVERITIES):
        pair = f"has {len(images)} images and {LABELS} has {len(labels)} labels: both must have five times the test set"
        raise damaged(path, pair, MEND)
    blocks = labels.reshape(len(SEVERITIES), -1)
    if (
        labels.dtype.kind not in "iu"
        or (blocks != blocks[0]).any()
        or not 0 <= labels.min() <= labels.max() < num_classes
    ):
        form = f"must hold the labels of the test set, 0 to {num_classes - 1}, five times"
        raise damaged(path.parent / LABELS, form, MEND)
    target = torch.from_numpy(blocks[0].astype(np.int64))
    for number in range(len(SEVERITIES)):
        # The file is mapped: only this severity is read into memory.
        block = np.array(images[number * len(target) : (number + 1) * len(target)])
        pixels = torch.from_numpy(block).permute(0, 3, 1, 2).contiguous()
        yield Part(InMemoryEval(Images(pixels, target), cfg, device), num_classes, tuple(pixels.shape[1:]))


def _array(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:  # a cut file is a ValueError
        raise Damaged(f"{path} cannot be read as an array of numpy ({' '.join(str(e).split())}); {MEND}") from e
    return found


def _severities_of_folder(trained: Trained, cfg: CorruptedConfig, place: Path, device: torch.device) -> Iterator[Part]:
    """Yield the five severities of ImageNet-C, whose images are cropped already."""
    size = _side(trained, cfg)
    for severity in SEVERITIES:
        yield _of_folder(cfg, place / str(severity), size, size, device)


def _sized(trained: Trained, cfg: ImageFolderConfig) -> ImageFolderConfig:
    """Return the section with the size of the images, and of their resizing, of the training."""
    size = _side(trained, cfg)
    resize = trained.cfg.resize if isinstance(trained.cfg, ImageFolderConfig) else size
    return dataclasses.replace(cfg, image_size=size, resize=resize)


def _validation_folder(cfg: ImageFolderConfig, place: Path, device: torch.device) -> Iterator[Part]:
    yield _of_folder(cfg, place, cfg.resize, cfg.image_size, device)


def _of_folder(cfg: DataConfig, folder: Path, resize: int, size: int, device: torch.device) -> Part:
    # torchvision: where the optimizer or the measurements alone are of use, torch and numpy are enough
    from fsamlab.data.streamed import open_for_evaluation

    source, classes = open_for_evaluation(cfg, folder, resize, size, device)
    return Part(source, len(classes), (3, size, size), classes)


def _side(trained: Trained, cfg: DataConfig) -> int:
    """Return the side of the square images that the network was trained on."""
    size = trained.data.image_size
    if size is None or size[0] != size[1]:
        raise ConfigError(
            "data", cfg.name, f"gives square images; the size of {trained.cfg.name}, of the run, is {size}"
        )
    return size[0]


def _test_part(trained: Trained, cfg: DataConfig, device: torch.device, project_root: Path) -> Iterator[Part]:
    data = build_data(cfg, trained.seed, device, project_root)
    shape = (data.in_channels, *(data.image_size or ()))
    yield Part(data.test, data.num_classes, shape, data.classes)
