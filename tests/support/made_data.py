"""Data sets as their authors lay them out, small."""

from __future__ import annotations

import hashlib
import pickle
import zipfile

import numpy as np
import torch
from PIL import Image


class Python2Dtype:
    """Pickles as numpy's uint8 did under Python 2, whose `align` was an integer.

    Numpy 2.4.0 warns of the original arguments (0, 1), later releases only of others, such as these.
    """

    def __reduce__(self):
        return np.dtype, ("u1", 0, 0)


class Python2Array:
    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return np.ndarray, (self.array.shape, Python2Dtype(), self.array.tobytes())


def write_cifar(root, cls, key, monkeypatch):
    """Write files of torchvision's form with 12 + 6 images, and teach torchvision their checksums."""
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    written = {}
    for part, num in (("train", 12), ("test", 6)):
        images = rng.integers(0, 256, (num, 3072), dtype=np.uint8)
        content = {"data": Python2Array(images), key: [i % 10 for i in range(num)]}
        written[part] = images
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({cls.meta["key"]: list("abcdefghij")}, protocol=2))
    sums = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(cls, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(cls, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "filename": "meta", "md5": sums["meta"]})
    return written


def write_human(path, by_numpy_1=True, **labels):
    """Write a file of CIFAR-N's form: a dictionary of arrays; the published files were written with numpy 1."""
    torch.save({key: np.asarray(values) for key, values in labels.items()}, path)
    if not by_numpy_1:
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def pictures(folder, train, val):
    """Write so many random pictures of each of two classes, as `data=image_folder` reads them; return the folder."""
    rng = np.random.default_rng(0)
    for part, num in (("train", train), ("val", val)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(num):
                Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / part / name / f"{i}.png")
    return folder
