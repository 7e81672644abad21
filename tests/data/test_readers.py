import dataclasses
import gzip
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from support.made_data import write_cifar

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data import build_data, readers
from fsamlab.data.readers import DEBIAN_FASHION_MNIST, read_idx

CPU = torch.device("cpu")


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion_mnist(folder, num_train, num_test, zipped):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, num in (("train", num_train), ("t10k", num_test)):
        arrays = {
            "images-idx3-ubyte": rng.integers(0, 256, (num, 28, 28)),
            "labels-idx1-ubyte": np.arange(num) % 10,
        }
        for kind, array in arrays.items():
            content = idx_bytes(array)
            path = folder / f"{part}-{kind}{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("found", [True, False])
def test_digits_are_those_of_scikit_learn(found, monkeypatch):
    if not found:  # as a version of scikit-learn that keeps the file in another place
        monkeypatch.setattr(readers, "find_spec", lambda name: None)
    raw, digits = readers.read_digits(DataConfig(name="digits"), 0, Path("nowhere")), load_digits()
    assert raw.train.pixels.dtype == torch.float32
    assert raw.train.labels.dtype == torch.int64
    assert torch.equal(raw.train.pixels[:, 0].double() * 16, torch.from_numpy(digits.images))
    assert torch.equal(raw.train.labels, torch.from_numpy(digits.target))


def fashion(root, **fields):
    cfg = DataConfig(**{"name": "fashion_mnist", "batch_size": 8, "val_size": 6, "root": "files", **fields})
    return build_data(cfg, 0, CPU, root)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path, shape, suffix):
    array = np.arange(np.prod(shape)).reshape(shape) + 200  # the last ones wrap around at 256
    content = idx_bytes(array)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    tensor = read_idx(path)
    assert tensor.dtype == torch.uint8
    assert torch.equal(tensor, torch.from_numpy(array.astype(np.uint8)))


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\x01a", b"\0\0\x08\x01\0\0\0\x05abc"])
def test_damaged_idx(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ConfigError, match="not an idx file of bytes, or is cut off"):
        read_idx(tmp_path / "x")


def test_cut_off_gzip(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(os.urandom(500))[:200])
    with pytest.raises(ConfigError, match="damaged gzip"):
        read_idx(tmp_path / "x.gz")


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_in_torchvisions_place(tmp_path, zipped):
    write_fashion_mnist(tmp_path / "files" / "FashionMNIST" / "raw", 30, 20, zipped)
    data = fashion(tmp_path)
    assert (data.train.num_samples, data.val.num_samples, data.test.num_samples) == (24, 6, 20)
    batch = next(data.test.batches())
    assert batch.images.shape == (20, 1, 28, 28)
    assert torch.equal(batch.labels, torch.arange(20) % 10)
    assert 0.9 < batch.images.max() <= 1.0


def test_fashion_mnist_in_debians_place_is_not_downloaded(tmp_path, monkeypatch):
    write_fashion_mnist(tmp_path / "debian", 30, 20, zipped=True)
    monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", None)  # calling it would raise
    assert fashion(tmp_path, download=True).train.num_samples == 24


def test_fashion_mnist_has_its_own_test_part(tmp_path):
    write_fashion_mnist(tmp_path / "files" / "FashionMNIST" / "raw", 30, 20, zipped=False)
    with pytest.raises(ConfigError, match=r"data.test_size=5: fashion_mnist has a test part of its own"):
        fashion(tmp_path, test_size=5)


def test_missing_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    with pytest.raises(ConfigError) as raised:
        fashion(tmp_path)
    message = str(raised.value)
    assert str(tmp_path / "files" / "FashionMNIST" / "raw") in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert "python launch.py data=fashion_mnist data.download=true" in message
    assert "\n" not in message
    assert not (tmp_path / "files").exists()  # looking leaves nothing behind


@pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.exists() and os.environ.get("FSAMLAB_REQUIRE_FASHION_MNIST") != "1",
    reason="Debian package dataset-fashion-mnist is not installed",
)
def test_real_fashion_mnist(tmp_path):
    data = fashion(tmp_path, val_size=5000, mean=[0.2860], std=[0.3530], eval_batch_size=5000)
    assert (data.train.num_samples, data.val.num_samples, data.test.num_samples) == (55_000, 5000, 10_000)
    images, labels, _ = zip(*((b.images, b.labels, b.indices) for b in data.test.batches()))
    assert torch.cat(labels).bincount().tolist() == [1000] * 10
    assert abs(torch.cat(images).mean()) < 0.01
    assert abs(torch.cat(images).std() - 1) < 0.01


CIFARS = [
    ("cifar10", torchvision.datasets.CIFAR10, "labels", 10),
    ("cifar100", torchvision.datasets.CIFAR100, "fine_labels", 100),
]


@pytest.mark.parametrize(("name", "cls", "key", "num_classes"), CIFARS)
@pytest.mark.parametrize("download", [False, True])  # there is nothing left to download
def test_cifar(tmp_path, monkeypatch, name, cls, key, num_classes, download):
    written = write_cifar(tmp_path / "data", cls, key, monkeypatch)
    cfg = DataConfig(name=name, batch_size=4, val_size=2, mean=[0.0] * 3, std=[1.0] * 3, download=download)
    data = build_data(cfg, 0, CPU, tmp_path)
    assert (data.num_classes, data.in_channels, data.train.num_samples) == (num_classes, 3, 10)
    batch = next(data.test.batches())
    expected = torch.from_numpy(written["test"]).view(6, 3, 32, 32).float() / 255
    assert torch.equal(batch.images, expected)
    assert batch.labels.tolist() == list(range(6))
    (tmp_path / "data" / cls.base_folder / "test").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match="not completely"):
        build_data(dataclasses.replace(cfg, download=False), 0, CPU, tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar(tmp_path, name):
    with pytest.raises(ConfigError) as raised:
        build_data(DataConfig(name=name), 0, CPU, tmp_path)
    message = str(raised.value)
    assert str(tmp_path / "data" / "cifar") in message
    assert f"python launch.py data={name} data.download=true" in message
    assert "\n" not in message


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    def no_network(self):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", no_network)
    with pytest.raises(
        ConfigError, match=r"could not download cifar10 .*no route to host.*node with network"
    ) as raised:
        build_data(DataConfig(name="cifar10", download=True), 0, CPU, tmp_path)
    assert "\n" not in str(raised.value)


def test_downloads_into_one_root_take_turns(tmp_path):
    cfg, entered = DataConfig(name="cifar10"), threading.Event()

    def second():
        with readers.downloading(cfg, tmp_path / "data"):
            entered.set()

    thread = threading.Thread(target=second)
    with readers.downloading(cfg, tmp_path / "data"):
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()


def test_a_download_on_a_file_system_without_flock(tmp_path, monkeypatch):
    import errno
    import fcntl

    from fsamlab.data.readers import downloading

    def none(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with downloading(DataConfig(name="cifar10"), tmp_path):
        (tmp_path / "file").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".download.lock", "file"]
