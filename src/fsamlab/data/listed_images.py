"""Image sets whose labels stand in files of their own: Flowers102, Oxford-IIIT Pet, Stanford Cars.

torchvision's classes read the labels; the images are streamed as those of a folder are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torchvision import datasets

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.image_files import read_rgb
from fsamlab.data.readers import downloading, missing_files
from fsamlab.storage.digests import LISTED

Samples = list[tuple[str, int]]  # (file, label)


@dataclass
class ListedImages:
    """One part of a set, with the attributes of :class:`~fsamlab.data.image_files.VisibleImages` that are in use.

    Attributes:
        samples: file and label of each image, in the order of the label files.
        classes: one name for each class, also for a class without an image in this part.
        loader: reads a file as an RGB image.
    """

    samples: Samples
    classes: list[str]
    loader: Callable[[str], Image.Image] = read_rgb

    @property
    def targets(self) -> list[int]:
        """Return the labels."""
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)


def open_listed(cfg: DataConfig, root: Path) -> tuple[ListedImages, ListedImages]:
    """Read the labels of a set and return its training part and its test part; no image is opened.

    The official training and validation parts together are the training part: `data.val_size` holds out from them.

    Raises:
        ConfigError: files are missing or damaged, or the download failed.
    """
    place, read = LISTED[cfg.name], READERS[cfg.name]
    folder = root / place.folder
    by_hand = cfg.name == "stanford_cars"  # torchvision cannot download the set: the authors' address is gone
    if cfg.download and not by_hand:
        with downloading(cfg, root):
            read(root, True)
    absent = [path for path in map(folder.joinpath, (*place.images, *place.labels)) if not path.exists()]
    if absent and by_hand:
        allowed = (
            f"there is no {absent[0]}, and torchvision cannot download Stanford Cars; put cars_train/, cars_test/, "
            f"devkit/ (with cars_meta.mat, cars_train_annos.mat) and cars_test_annos_withlabels.mat into {folder}"
        )
        raise ConfigError("data.root", cfg.root, allowed)
    if absent:
        raise missing_files(cfg, folder, f": there is no {absent[0]}")
    try:
        parts = read(root, False)
    except Exception as error:  # torchvision and scipy raise many kinds of errors on damaged label files
        reason = " ".join(str(error).split()) or type(error).__name__
        allowed = f"the label files in {folder} cannot be read ({reason}); remove the folder and get the set again"
        raise ConfigError("data.root", cfg.root, allowed) from error
    for samples in parts:
        _check(cfg, samples, place.num_classes)
    classes = [str(number) for number in range(1, place.num_classes + 1)]  # as the label files count them
    return ListedImages(parts[0], classes), ListedImages(parts[1], classes)


def _check(cfg: DataConfig, samples: Samples, num_classes: int) -> None:
    """Refuse a part without images, a label that is no class, and images that are not there.

    The folders are listed once: to ask for each file alone takes long on a network disk.
    """
    if not samples:
        raise ConfigError("data.root", cfg.root, f"the label files of {cfg.name} name no image in one part of the set")
    for file, label in samples:
        if not 0 <= label < num_classes:
            allowed = (
                f"the label files give {file} the class {label + 1}; {cfg.name} has the classes 1 to {num_classes}"
            )
            raise ConfigError("data.root", cfg.root, allowed)
    there = {path for folder in {Path(file).parent for file, _ in samples} for path in _entries(folder)}
    absent = [file for file, _ in samples if Path(file) not in there]
    if absent:
        allowed = f"{len(absent)} of {len(samples)} images that the label files name are missing, first {absent[0]}"
        raise ConfigError("data.root", cfg.root, allowed)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _flowers(root: Path, download: bool) -> tuple[Samples, Samples]:
    def part(split: str) -> Samples:
        found = datasets.Flowers102(root, split=split, download=download)
        return [(str(file), int(label)) for file, label in zip(found._image_files, found._labels, strict=True)]

    return part("train") + part("val"), part("test")


def _pets(root: Path, download: bool) -> tuple[Samples, Samples]:
    def part(split: str) -> Samples:
        found = datasets.OxfordIIITPet(root, split=split, download=download)
        return [(str(file), int(label)) for file, label in zip(found._images, found._labels, strict=True)]

    return part("trainval"), part("test")


def _cars(root: Path, download: bool) -> tuple[Samples, Samples]:
    def part(split: str) -> Samples:
        return [(str(file), int(label)) for file, label in datasets.StanfordCars(root, split=split)._samples]

    return part("train"), part("test")


READERS: dict[str, Callable[[Path, bool], tuple[Samples, Samples]]] = {
    "flowers102": _flowers,
    "oxford_pets": _pets,
    "stanford_cars": _cars,
}
