"""Data sets as their authors lay them out, small."""

from __future__ import annotations

import hashlib
import pickle
import zipfile

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102


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


def _photos(folder, names, seed=0):
    """Write random JPEG pictures of different sizes, one of them grey, as these sets have some."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i, name in enumerate(names):
        shape = (20 + i % 5, 24) if i == 1 else (20 + i % 5, 24, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name, "JPEG")


def write_flowers(root, monkeypatch, num=(10, 6, 8)):
    """Write Flowers102 with so many images in train, valid and test; return the labels and the parts by number."""
    folder = root / "flowers-102"
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 103, sum(num)).astype(np.uint8)
    _photos(folder / "jpg", [f"image_{i:05d}.jpg" for i in range(1, sum(num) + 1)])
    numbers = rng.permutation(np.arange(1, sum(num) + 1)).astype(np.uint16)
    parts = dict(zip(("trnid", "valid", "tstid"), np.split(numbers, np.cumsum(num)[:2]), strict=True))
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    savemat(folder / "setid.mat", {name: part[None] for name, part in parts.items()})
    trust_flowers(root, monkeypatch)
    return {int(number): int(label) for number, label in enumerate(labels, 1)}, parts


def trust_flowers(root, monkeypatch):
    """Teach torchvision the checksums of the label files."""
    known = dict(Flowers102._file_dict)
    for key in ("label", "setid"):
        name = known[key][0]
        known[key] = (name, hashlib.md5((root / "flowers-102" / name).read_bytes()).hexdigest())
    monkeypatch.setattr(Flowers102, "_file_dict", known)


def write_pets(root, num=(12, 8)):
    """Write Oxford-IIIT Pet with so many images in its parts trainval and test, and a file beside the images."""
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    breeds = ("Abyssinian", "american_bulldog", "yorkshire_terrier")
    numbers = (1, 2, 37)
    for part, count in zip(("trainval", "test"), num, strict=True):
        names = [f"{breeds[i % 3]}_{100 + i}{part[:2]}" for i in range(count)]
        _photos(folder / "images", [f"{name}.jpg" for name in names])
        rows = [f"{name} {numbers[i % 3]} {1 + (i % 3 > 0)} {1 + i % 25}\n" for i, name in enumerate(names)]
        (folder / "annotations" / f"{part}.txt").write_text("".join(rows))
    (folder / "images" / "Abyssinian_100.mat").write_bytes(b"a file of the archive that is no image")


def write_cars(root, num=(12, 8)):
    """Write Stanford Cars with so many images in its parts train and test."""
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    places = (folder / "devkit" / "cars_train_annos.mat", folder / "cars_test_annos_withlabels.mat")
    for part, count, place in zip(("cars_train", "cars_test"), num, places, strict=True):
        names = [f"{i:05d}.jpg" for i in range(1, count + 1)]
        _photos(folder / part, names)
        rows = np.zeros((1, count), dtype=[(field, object) for field in fields])
        for i, name in enumerate(names):
            box = [np.array([[v]], dtype=np.uint16) for v in (1, 2, 20, 15)]
            rows[0, i] = (*box, np.array([[1 + i * 15 % 196]], dtype=np.uint8), name)
        savemat(place, {"annotations": rows})
    names = np.array([[f"Maker {i} Coupe 2012" for i in range(1, 197)]], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def write_cifar_c(folder, names, per_severity=20, classes=10):
    """Write corruptions as CIFAR-C has them, uint8 (5 n, 32, 32, 3), and five times the labels; return the n labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in names:
        contrast = rng.integers(20, 256, (5 * per_severity, 1, 1, 3))  # else all images are alike to a network
        images = rng.integers(0, 256, (5 * per_severity, 32, 32, 3)) * contrast // 256
        np.save(folder / f"{name}.npy", images.astype(np.uint8))
    labels = rng.integers(0, classes, per_severity).astype(np.uint8)
    np.save(folder / "labels.npy", np.tile(labels, 5))
    return labels


def write_imagenet_c(folder, names, classes=("cat", "dog"), group="", size=12):
    """Write two pictures of each class at each severity, as ImageNet-C has them, some below a folder of a group."""
    rng = np.random.default_rng(1)
    for name in names:
        for severity in range(1, 6):
            for kind in classes:
                place = folder / group / name / str(severity) / kind
                place.mkdir(parents=True)
                for i in range(2):
                    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"ILSVRC2012_val_{i}.JPEG")
    return folder
