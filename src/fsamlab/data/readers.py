"""From files to tensors: one function for each in-memory data set, `read_<name>(cfg, seed, root) -> Raw`."""

from __future__ import annotations

import contextlib
import gzip
import math
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig, SyntheticConfig
from fsamlab.data.in_memory import Images, Raw
from fsamlab.data.sampling import generator
from fsamlab.seeding import Stream
from fsamlab.storage.digests import DEBIAN_FASHION_MNIST
from fsamlab.storage.locks import locked

DOWNLOAD_SECONDS = 1800.0  # how long a process waits while another process downloads


def read_digits(cfg: DataConfig, seed: int, root: Path) -> Raw:
    """Return scikit-learn's digits: 1797 grey 8x8 images, shipped with scikit-learn; grey levels 0..16 become 0..1."""
    levels, labels = _digits()
    pixels = torch.from_numpy(levels).float().div(16).view(-1, 1, 8, 8)
    return Raw(Images(pixels, torch.from_numpy(labels).long()), None, 10)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the grey levels (1797, 64) and the labels (1797,) of `sklearn.datasets.load_digits`."""
    package = find_spec("sklearn")  # finds the package without importing the package, which would take a second
    for place in (package.submodule_search_locations or ()) if package else ():
        file = Path(place, "datasets", "data", "digits.csv.gz")
        if file.exists():
            table = np.loadtxt(file, delimiter=",")  # in each row 64 pixels and the label
            return table[:, :64], table[:, 64]
    from sklearn.datasets import load_digits  # a version of scikit-learn that keeps the file in another place

    digits = load_digits()
    return digits.data, digits.target


def read_synthetic(cfg: DataConfig, seed: int, root: Path) -> Raw:
    """Return standard Gaussian images around class means, which are standard Gaussian images too."""
    if not isinstance(cfg, SyntheticConfig):
        raise ConfigError("data.name", cfg.name, "is chosen with data=synthetic, which has its sizes")
    gen = generator(seed, Stream.SYNTHETIC)
    shape = (cfg.channels, cfg.image_size, cfg.image_size)
    means = torch.randn(cfg.num_classes, *shape, generator=gen)
    labels = torch.arange(cfg.num_samples) % cfg.num_classes
    return Raw(
        Images(means[labels] + torch.randn(cfg.num_samples, *shape, generator=gen), labels),
        None,
        cfg.num_classes,
    )


def read_fashion_mnist(cfg: DataConfig, seed: int, root: Path) -> Raw:
    """Return Fashion-MNIST (60 000 + 10 000 grey 28x28 images, arXiv 1708.07747).

    The files are looked for where torchvision puts them, `<root>/FashionMNIST/raw`, then where the Debian package puts
    them.

    Raises:
        ConfigError: the files are in neither place, or are damaged.
    """
    own = root / "FashionMNIST" / "raw"
    if cfg.download and not _has_idx_files(own) and not _has_idx_files(DEBIAN_FASHION_MNIST):
        with downloading(cfg, root):
            import torchvision  # not at the top: see data/__init__.py

            torchvision.datasets.FashionMNIST(root, download=True)
    for folder in (own, DEBIAN_FASHION_MNIST):
        if _has_idx_files(folder):
            return Raw(_read_idx_pair(folder, "train"), _read_idx_pair(folder, "t10k"), 10)
    raise missing_files(cfg, own, f", nor in {DEBIAN_FASHION_MNIST} (apt-get install dataset-fashion-mnist)")


def read_cifar(cfg: DataConfig, seed: int, root: Path) -> Raw:
    """Return CIFAR-10 or CIFAR-100 (50 000 + 10 000 colour 32x32 images), from the files that torchvision stores.

    Raises:
        ConfigError: the files are not there, or torchvision's checksums do not match.
    """
    import torchvision  # not at the top: see data/__init__.py

    cls = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[cfg.name]
    parts = []
    with warnings.catch_warnings():
        # the files were pickled by Python 2's numpy, whose dtypes spell `align` as an integer; 2.4.0 warns of it
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        if cfg.download:
            with downloading(cfg, root):
                cls(root, download=True)
        for train in (True, False):
            try:
                part = cls(root, train=train)
            except RuntimeError:  # torchvision's checksums failed: files are missing, incomplete or damaged
                raise missing_files(cfg, root / cls.base_folder) from None
            pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
            parts.append(Images(pixels, torch.tensor(part.targets)))
    return Raw(parts[0], parts[1], 100 if cfg.name == "cifar100" else 10)


def read_idx(path: Path) -> Tensor:
    """Return the uint8 tensor of an idx file (the MNIST format); a name that ends in .gz is a gzip file.

    Raises:
        ConfigError: the file is not an idx file of bytes, or is cut off.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile):
        raise ConfigError("data.root", path, "is a damaged gzip file; remove the file and download it again") from None
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0  # 8: unsigned bytes
    start = 4 + 4 * rank
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if rank == 0 or len(content) != start + math.prod(shape):
        raise ConfigError(
            "data.root", path, "is not an idx file of bytes, or is cut off; remove the file and download it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).copy()).view(shape)


def _idx_path(folder: Path, stem: str) -> Path | None:
    return next((p for p in (folder / stem, folder / f"{stem}.gz") if p.exists()), None)


def _has_idx_files(folder: Path) -> bool:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return all(_idx_path(folder, f"{part}-{kind}") for part in ("train", "t10k") for kind in kinds)


def _read_idx_pair(folder: Path, part: str) -> Images:
    images, labels = (
        _idx_path(folder, f"{part}-images-idx3-ubyte"),
        _idx_path(folder, f"{part}-labels-idx1-ubyte"),
    )
    assert images is not None  # _has_idx_files was asked before
    assert labels is not None
    return Images(read_idx(images)[:, None], read_idx(labels).long())


def missing_files(cfg: DataConfig, path: Path, elsewhere: str = "") -> ConfigError:
    """Return the error for a set whose files are not below `data.root`; `elsewhere` continues "in <path>"."""
    return ConfigError(
        "data.root",
        cfg.root,
        f"{cfg.name} is not (or not completely) in {path}{elsewhere}; "
        f"download it with `python launch.py data={cfg.name} data.download=true`",
    )


@contextlib.contextmanager
def downloading(cfg: DataConfig, root: Path) -> Iterator[None]:
    """Hold the lock of the root: one of several processes downloads, and the others then find the files."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".download.lock", DOWNLOAD_SECONDS):
            yield
    except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            "data.download",
            True,
            f"could not download {cfg.name} into {root} ({reason}); try on a node with network",
        ) from error
