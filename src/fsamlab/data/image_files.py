"""Folders of images: which files count, and how their pixels become 8-bit RGB."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder

from fsamlab.config import ConfigError, DataConfig
from fsamlab.storage.digests import IMAGE_ENDINGS, hidden
from fsamlab.storage.reading import Damaged

log = logging.getLogger(__name__)


class VisibleImages(ImageFolder):
    """torchvision's ImageFolder without hidden files and folders; counts the files that are left out.

    Attributes:
        left_out: number of hidden entries under the key "hidden", and of other files under their ending.
    """

    def __init__(self, root: str) -> None:
        self.left_out: Counter[str] = Counter()
        super().__init__(root, loader=read_rgb, is_valid_file=self._counts)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the names of the class folders, sorted, and the number of each class."""
        found = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
        classes = [name for name in found if not hidden(name)]
        self.left_out["hidden"] += len(found) - len(classes)
        if not classes:
            raise FileNotFoundError(f"no class folder in {directory}")
        return classes, {name: number for number, name in enumerate(classes)}

    def _counts(self, path: str) -> bool:
        *folders, name = Path(path).relative_to(self.root).parts[1:]  # find_classes has left out hidden classes already
        if hidden(name) or any(map(hidden, folders)):
            self.left_out["hidden"] += 1
            return False
        if not name.lower().endswith(IMAGE_ENDINGS):
            self.left_out[os.path.splitext(name)[1].lower() or "no ending"] += 1
            return False
        return True


def open_folder(cfg: DataConfig, path: Path) -> VisibleImages:
    """Index one part of a set, log which files are left out, and open the first image of each class.

    Raises:
        ConfigError: the folder does not exist, has fewer than two class folders, or a class folder without images.
        Damaged: the first image of a class cannot be used.
    """
    try:
        folder = VisibleImages(str(path))
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            "data.root",
            cfg.root,
            f"{path} must hold one folder of images per class ({reason}); "
            f"arrange the files in this way and name the folder: `python launch.py data={cfg.name} data.root=PATH`",
        ) from None
    if len(folder.classes) < 2:
        allowed = f"{path} holds one class ({folder.classes[0]}); there must be two or more folders of images"
        raise ConfigError("data.root", cfg.root, allowed)
    hidden_entries = folder.left_out.pop("hidden", 0)
    if hidden_entries:
        log.warning("%s: %d hidden files and folders are left out", path, hidden_entries)
    if folder.left_out:
        kinds = ", ".join(f"{number} {ending}" for ending, number in sorted(folder.left_out.items()))
        log.warning("%s: files whose ending is not of an image are left out: %s", path, kinds)
    # dict keeps the last value of a key: in reversed order that is the first image of each class.
    first = dict(zip(reversed(folder.targets), reversed([name for name, _ in folder.samples])))
    deep = [name for name in first.values() if _is_16_bit(name)]
    if deep:
        log.warning("%s: grey images of 16 bits, for example %s: 0..65535 is scaled to 0..255", path, deep[-1])
    return folder


def read_rgb(path: str) -> Image.Image:
    """Return the pixels of an image file as 8-bit RGB, in the mode "RGB"; of several frames the first frame.

    Grey values of 16 bits are scaled from 0..65535 to 0..255 and rounded. An alpha channel is dropped: the colours
    below stay as they are stored. Of colours with 16 bits Pillow reads the upper 8. Pillow also converts palettes, CMYK
    without a profile, and YCbCr.

    Raises:
        Damaged: the file cannot be read, or has 32-bit values, because the file does not say which value is white.
    """
    try:
        with open(path, "rb") as f:
            image: Image.Image = Image.open(f)
            if _is_16_bit_mode(image):
                values = np.asarray(image).astype(np.uint32)
                image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
            elif image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # the same colours; directly to RGB, Pillow warns
            return image.convert("RGB")
    except Exception as e:  # decoders raise many kinds of errors on a damaged file
        raise cannot_read(path, e) from None


def _is_16_bit(path: str) -> bool:
    """Return whether an image has grey values of 16 bits; only the header is read."""
    try:
        with open(path, "rb") as f:
            return _is_16_bit_mode(Image.open(f))
    except Exception as e:
        raise cannot_read(path, e) from None


def _is_16_bit_mode(image: Image.Image) -> bool:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise ValueError(f"{kind} values do not say which value is white; save the image with 8 or 16 bits")
    return False


def cannot_read(path: str, error: Exception) -> Damaged:
    """Return the error, in one line, for an image that cannot be used."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return Damaged(f"{path} cannot be read as an image ({' '.join(reason.split())}); replace or remove the file")
