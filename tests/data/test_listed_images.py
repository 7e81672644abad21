"""Flowers102, Oxford-IIIT Pet and Stanford Cars, on small files in their own formats."""

import shutil

import numpy as np
import pytest
import torch
from scipy.io import savemat
from support.made_data import trust_flowers, write_cars, write_flowers, write_pets
from torchvision.datasets import Flowers102

from fsamlab.config import ConfigError, ImageFolderConfig
from fsamlab.config.data import WITH_LABEL_FILES
from fsamlab.data import build_data
from fsamlab.data.listed_images import READERS
from fsamlab.storage.digests import LISTED, of_listed
from fsamlab.storage.reading import Damaged

CPU = torch.device("cpu")


def build(name, root, **fields):
    sizes = {"batch_size": 4, "eval_batch_size": 5, "image_size": 16, "resize": 18}
    return build_data(ImageFolderConfig(**{"name": name, "root": str(root), **sizes, **fields}), 0, CPU, root)


@pytest.fixture
def roots(tmp_path, monkeypatch):
    write_flowers(tmp_path, monkeypatch)
    write_pets(tmp_path)
    write_cars(tmp_path)
    return tmp_path


def test_the_names_are_known_everywhere():
    assert set(WITH_LABEL_FILES) == set(LISTED) == set(READERS)


@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [("flowers102", (16, 8), 102), ("oxford_pets", (12, 8), 37), ("stanford_cars", (12, 8), 196)],
)
def test_parts_and_classes(roots, name, sizes, classes):
    data = build(name, roots, val_size=4)
    assert (data.facts["num_train"], data.facts["num_val"], data.facts["num_test"]) == (sizes[0] - 4, 4, sizes[1])
    assert (data.num_classes, data.in_channels, data.image_size) == (classes, 3, (16, 16))
    batches = list(data.train.batches(0))
    assert batches[0].images.shape == (4, 3, 16, 16)
    assert sum(len(b) for b in batches) == sizes[0] - 4
    assert sum(len(b) for b in data.test.batches()) == sizes[1]
    noisy = build(name, roots, label_noise=1.0, noise_includes_true=False)
    assert noisy.facts["effective_label_noise"] == 1.0


def test_labels_of_flowers_are_those_of_the_files(tmp_path, monkeypatch):
    labels, parts = write_flowers(tmp_path, monkeypatch)
    data = build("flowers102", tmp_path)
    train = [(name, label) for name, label in data.train._loader.samples.folder.samples]
    numbers = [*parts["trnid"].tolist(), *parts["valid"].tolist()]  # both parts train
    assert [int(name[-9:-4]) for name, _ in train] == numbers
    assert [label + 1 for _, label in train] == [labels[n] for n in numbers]
    seen = torch.cat([b.labels for b in data.test.batches()])
    assert (seen + 1).tolist() == [labels[n] for n in parts["tstid"].tolist()]


def test_labels_of_pets_and_cars_start_at_zero(roots):
    assert torch.cat([b.labels for b in build("oxford_pets", roots).test.batches()]).tolist() == [0, 1, 36] * 2 + [0, 1]
    cars = torch.cat([b.labels for b in build("stanford_cars", roots).test.batches()])
    assert cars.tolist() == [i * 15 % 196 for i in range(8)]


@pytest.mark.parametrize("name", LISTED)
def test_every_missing_file_is_one_line(roots, name):
    place = LISTED[name]
    for part in (*place.labels, *place.images):
        path, aside = roots / place.folder / part, roots / "aside"
        path.rename(aside)
        with pytest.raises(ConfigError, match=rf"^data.root=.*there is no .*{path.name}") as raised:
            build(name, roots)
        assert "\n" not in str(raised.value)
        assert of_listed(roots / place.folder) is None
        assert ("data.download=true" in str(raised.value)) != (name == "stanford_cars")
        aside.rename(path)
    build(name, roots)
    shutil.rmtree(roots / place.folder)
    with pytest.raises(ConfigError, match=r"^data.root="):
        build(name, roots)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("damage", ["empty", "cut", "a page of a web server"])
def test_damaged_label_files_are_one_line(roots, name, damage, monkeypatch):
    for part in LISTED[name].labels:
        path = roots / LISTED[name].folder / part
        whole = path.read_bytes()
        cut = whole[: whole.rindex(b" ")] if path.suffix == ".txt" else whole[: len(whole) // 2]
        path.write_bytes({"empty": b"", "cut": cut}.get(damage, b"<html>not found</html>"))
        trust_flowers(roots, monkeypatch)
        empty = damage == "empty" and path.suffix == ".txt"
        message = (
            "name no image in one part" if empty else r"label files in .* cannot be read \(.+\); remove the folder"
        )
        with pytest.raises(ConfigError, match=message) as raised:
            build(name, roots)
        assert "\n" not in str(raised.value)
        path.write_bytes(whole)
        trust_flowers(roots, monkeypatch)


def test_label_files_of_flowers_with_another_checksum(roots):
    place = roots / "flowers-102" / "imagelabels.mat"
    savemat(place, {"labels": np.ones((1, 24), dtype=np.uint8)})
    with pytest.raises(ConfigError, match=r"cannot be read \(Dataset not found or corrupted.*\); remove the folder"):
        build("flowers102", roots)


def test_a_label_that_is_no_class(roots, monkeypatch):
    savemat(roots / "flowers-102" / "imagelabels.mat", {"labels": np.full((1, 24), 103, dtype=np.uint8)})
    trust_flowers(roots, monkeypatch)
    with pytest.raises(ConfigError, match=r"give .*image_\d+.jpg the class 103; flowers102 has the classes 1 to 102"):
        build("flowers102", roots)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("flowers102", "jpg/image_00003.jpg"),
        ("oxford_pets", "images/Abyssinian_100te.jpg"),
        ("stanford_cars", "cars_test/00008.jpg"),
    ],
)
def test_missing_and_damaged_images(roots, name, image):
    path = roots / LISTED[name].folder / image
    path.write_bytes(path.read_bytes()[:200])
    data = build(name, roots)
    with pytest.raises(Damaged, match=rf"{path.name} cannot be read as an image") as raised:
        [*data.train.batches(0), *data.test.batches()]
    assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(
        ConfigError, match=rf"1 of \d+ images that the label files name are missing, first .*{path.name}"
    ):
        build(name, roots)


def test_cars_cannot_be_downloaded(roots, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*, and torchvision cannot download .*cars_train/, cars_test/"):
        build("stanford_cars", tmp_path / "elsewhere", download=True)
    assert build("stanford_cars", roots, download=True).num_classes == 196  # the files are there


def test_download_that_fails(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(Flowers102, "download", no_network)
    with pytest.raises(ConfigError, match=r"could not download flowers102 .*no route to host.*node with network"):
        build("flowers102", tmp_path, download=True)


@pytest.mark.parametrize("name", LISTED)
def test_the_digest_sees_labels_and_images(roots, name):
    place = LISTED[name]
    folder = roots / place.folder
    first = of_listed(folder)
    assert "20 images of" in first["what"] or "24 images of" in first["what"]
    (folder / place.images[0] / "._hidden.jpg").write_bytes(b"of a Mac")
    assert of_listed(folder) == first
    label_file = folder / place.labels[0]
    label_file.write_bytes(label_file.read_bytes() + b" ")
    second = of_listed(folder)
    image = next(p for p in sorted((folder / place.images[0]).iterdir()) if p.suffix == ".jpg" and p.name[0] != ".")
    image.write_bytes(image.read_bytes() + b" ")
    assert len({first["digest"], second["digest"], of_listed(folder)["digest"]}) == 3
