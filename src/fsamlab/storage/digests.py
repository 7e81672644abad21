"""Digests of files that hold data or weights. This module imports no torch."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


@dataclass(frozen=True)
class Listed:
    """Where torchvision keeps an image set whose labels stand in files of their own; all paths are below `folder`."""

    folder: str  # below data.root
    images: tuple[str, ...]
    labels: tuple[str, ...]
    num_classes: int


LISTED = {
    "flowers102": Listed("flowers-102", ("jpg",), ("imagelabels.mat", "setid.mat"), 102),
    "oxford_pets": Listed("oxford-iiit-pet", ("images",), ("annotations/trainval.txt", "annotations/test.txt"), 37),
    "stanford_cars": Listed(
        "stanford_cars",
        ("cars_train", "cars_test"),
        ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat", "devkit/cars_meta.mat"),
        196,
    ),
}


def hidden(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a system or a tool and holds no data, as `._0.png`."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def of_images(root: Path) -> dict[str, str] | None:
    """Return the digest of the paths and sizes of the images in `root/train` and `root/val`; None without images.

    The content of the images is not read: a set like ImageNet has 150 GB.
    """
    lines, total = [], 0
    for part in ("train", "val"):
        for path in visible_images(root / part):
            size = path.stat().st_size
            total += size
            lines.append(f"{path.relative_to(root).as_posix()}\0{size}\n")
    if not lines:
        return None
    return entry("".join(sorted(lines)).encode(errors="surrogateescape"), f"{len(lines)} images of {total:,} bytes")


def visible_images(folder: Path) -> Iterator[Path]:
    """Yield the images below `folder/<class>/` in no fixed order; links are followed, hidden entries are skipped."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not hidden(name)]
        if Path(place) == folder:
            continue  # an image must lie in the folder of its class
        for name in files:
            if name.lower().endswith(IMAGE_ENDINGS) and not hidden(name):
                yield Path(place, name)


def of_listed(folder: Path) -> dict[str, str] | None:
    """Return the digest of a set with label files: content of these, names and sizes of the images; None without files.

    Args:
        folder: the folder of the set, whose name is that in `LISTED`.
    """
    place = next(place for place in LISTED.values() if place.folder == folder.name)
    if not all((folder / name).exists() for name in (*place.images, *place.labels)):
        return None
    lines = [f"{name}\0{of_file(folder / name)['digest']}\n" for name in place.labels]
    total = number = 0
    for name in place.images:
        with os.scandir(folder / name) as entries:
            images = [e for e in entries if e.name.lower().endswith(IMAGE_ENDINGS) and not hidden(e.name)]
        sizes = {image.name: image.stat().st_size for image in images}
        lines += [f"{name}/{image}\0{size}\n" for image, size in sizes.items()]
        total, number = total + sum(sizes.values()), number + len(sizes)
    what = f"label files, and {number} images of {total:,} bytes"
    return entry("".join(sorted(lines)).encode(errors="surrogateescape"), what)


def of_fashion_mnist(root: Path) -> dict[str, str] | None:
    """Return the digest of the content of Fashion-MNIST's files, compressed or not; None where files are missing."""
    for folder in (root / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        paths = [next((p for p in (folder / n, folder / f"{n}.gz") if p.exists()), None) for n in IDX_FILES]
        if None in paths:
            continue
        digest = hashlib.sha256()
        for path in paths:
            assert path is not None
            content = path.read_bytes()
            try:
                digest.update(gzip.decompress(content) if path.suffix == ".gz" else content)
            except (EOFError, gzip.BadGzipFile):  # damaged: the reader of the data reports the damage
                digest.update(content)
        return {"digest": digest.hexdigest()[:16], "what": f"content {digest.hexdigest()[:8]}"}
    return None


def of_file(path: Path) -> dict[str, str]:
    """Return the digest of a file's content."""
    content = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(2**20):
            content.update(block)
    digest = content.hexdigest()
    return {"digest": digest[:16], "what": f"content {digest[:8]}"}


def entry(content: bytes, what: str) -> dict[str, str]:
    """Return `{"digest": 16 hex digits, "what": words for a message}` of some content."""
    return {"digest": hashlib.sha256(content).hexdigest()[:16], "what": what}
