"""Folders of images: which files count, and what a file's pixels become."""

import logging
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fsamlab.config import ConfigError, ImageFolderConfig
from fsamlab.data import build_data
from fsamlab.data.image_files import VisibleImages, read_rgb
from fsamlab.storage.digests import visible_images
from fsamlab.storage.reading import Damaged


def png(path, values, colour):
    """Write a 16-bit PNG (height, width, channels); Pillow writes grey ones only."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + values[y].astype(">u2").tobytes() for y in range(height))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return str(path)


GREY = np.array([[0, 128, 129, 257, 4096, 32768, 65535]], np.uint16)
SCALED = np.round(GREY / 257).astype(np.uint8)  # 65535 = 257 * 255


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(GREY).save(path)
    pixels = np.asarray(read_rgb(str(path)))
    assert pixels.shape == (1, 7, 3)
    assert np.array_equal(pixels, np.repeat(SCALED[:, :, None], 3, 2))


def test_16_bit_big_endian_tiff_is_scaled(tmp_path):
    entries = [(256, 3, 1, 7), (257, 3, 1, 1), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 14)]
    pixels = GREY.astype(">u2").tobytes()
    directory = struct.pack(">H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack(">HHI", tag, kind, count) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    path = tmp_path / "x.tif"
    path.write_bytes(b"MM\0*" + struct.pack(">I", 8 + len(pixels)) + pixels + directory + b"\0\0\0\0")
    with Image.open(path) as image:
        assert image.mode == "I;16B"
    assert np.array_equal(np.asarray(read_rgb(str(path)))[:, :, 0], SCALED)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
def test_16_bit_colours_keep_their_upper_8_bits(tmp_path, colour, channels):
    values = np.repeat(GREY[:, :, None], channels, 2)
    pixels = np.asarray(read_rgb(png(tmp_path / "x.png", values, colour)))
    assert np.array_equal(pixels, np.repeat((GREY // 256).astype(np.uint8)[:, :, None], 3, 2))


def test_8_bits_and_less_are_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (4, 5), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    alpha = Image.fromarray(rng.integers(0, 256, (4, 5, 4), dtype=np.uint8))
    palette = colour.quantize(8)
    for number, image in enumerate([grey, colour, alpha, palette, grey.convert("1"), grey.convert("LA")]):
        path = tmp_path / f"{number}.png"
        image.save(path, **({"transparency": bytes(range(8))} if image is palette else {}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(np.asarray(read_rgb(str(path))), np.asarray(image.convert("RGB"))), image.mode
    assert np.array_equal(np.asarray(alpha.convert("RGB")), np.asarray(alpha)[:, :, :3])  # alpha is dropped
    colour.convert("CMYK").save(tmp_path / "x.tif")
    assert np.array_equal(np.asarray(read_rgb(str(tmp_path / "x.tif"))), np.asarray(colour))


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "floating-point"), (np.int32, "32-bit integer")])
def test_values_without_a_range_are_refused(tmp_path, dtype, words):
    path = tmp_path / "x.tif"
    Image.fromarray(np.linspace(0, 1, 6, dtype=dtype).reshape(2, 3)).save(path)
    said = rf"{path} cannot be read as an image \({words} values do not say which value is white"
    with pytest.raises(Damaged, match=said):
        read_rgb(str(path))


@pytest.mark.parametrize("kind", ["empty", "text", "cut off", "gone", "too large"])
def test_what_cannot_be_read_is_named(tmp_path, monkeypatch, kind):
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path)
    if kind == "too large":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 900 pixels are more than twice the bound
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"no picture", "cut off": path.read_bytes()[:500]}[kind])
    with pytest.raises(Damaged) as raised:
        read_rgb(str(path))
    message = str(raised.value)
    assert message.startswith(f"{path} cannot be read as an image (")
    assert "\n" not in message
    if kind == "too large":
        assert "decompression bomb" in message


@pytest.fixture
def root(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (9, 9), (i, i, i)).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def build(root):
    cfg = ImageFolderConfig(name="image_folder", root=str(root), batch_size=2, image_size=8, resize=8)
    return build_data(cfg, 0, torch.device("cpu"), root)


def test_hidden_files_are_left_out_and_counted(root, caplog):
    before = build(root).facts
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (root / "train" / name).mkdir()
        Image.new("RGB", (9, 9)).save(root / "train" / name / "0.png")
    (root / "train" / "cat" / "._0.png").write_bytes(b"AppleDouble")
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "cat" / ".thumbnails").mkdir()
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / ".thumbnails" / "0.png")
    (root / "train" / "dog" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / "dog" / "more.gif").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        data = build(root)
    assert data.facts == before
    assert data.num_classes == 2
    assert f"{root / 'train'}: 5 hidden files and folders are left out" in caplog.text
    assert "files whose ending is not of an image are left out: 1 .db, 1 .gif" in caplog.text
    assert len(list(data.train.batches(0))) == 3


def test_the_digest_is_over_the_files_that_are_trained_on(root):
    (root / "train" / ".git").mkdir()
    Image.new("RGB", (9, 9)).save(root / "train" / ".git" / "0.png")
    (root / "train" / "cat" / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "deep" / "er" / "0.JPEG")
    Image.new("RGB", (9, 9)).save(root / "train" / "0.png")  # of no class
    folder = VisibleImages(str(root / "train"))
    assert sorted(map(str, visible_images(root / "train"))) == sorted(path for path, _ in folder.samples)
    assert len(folder.samples) == 7


def test_one_class_is_refused(root):
    for part in ("train", "val"):
        for picture in (root / part / "dog").iterdir():
            picture.unlink()
        (root / part / "dog").rmdir()
    with pytest.raises(ConfigError, match=r"data.root=.* holds one class \(cat\); there must be two or more"):
        build(root)


def test_a_class_of_floats_is_refused_and_16_bits_are_said_before_training(root, caplog):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(root / "train" / "cat" / "0.png")
    with caplog.at_level(logging.WARNING):
        build(root)
    assert "grey images of 16 bits" in caplog.text
    Image.fromarray(np.zeros((9, 9), np.float32)).save(root / "train" / "dog" / "0.tif")
    (root / "train" / "dog" / "0.png").unlink()
    with pytest.raises(Damaged, match=r"0.tif cannot be read as an image \(floating-point"):
        build(root)
