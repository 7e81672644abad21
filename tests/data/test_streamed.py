import dataclasses
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from fsamlab.config import AugmentConfig, ConfigError, ImageFolderConfig
from fsamlab.data import build_data, streamed
from fsamlab.data.workers import SCHEDULER_SIGNALS as SIGNALS
from fsamlab.data.workers import ignore_signals

CPU = torch.device("cpu")
CLASSES = ("bird", "cat", "dog")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """30 training and 9 test images of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, num in (("train", 10), ("val", 3)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for i in range(num):
                pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def folder(root, seed=0, **fields):
    defaults = {"batch_size": 4, "eval_batch_size": 5, "val_size": 6, "image_size": 16, "resize": 18}
    cfg = ImageFolderConfig(**{"name": "image_folder", "root": str(root), **defaults, **fields})
    return build_data(cfg, seed, CPU, root)


def equal(a, b):
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


def all_equal(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) > 0 and all(equal(a, b) for a, b in zip(first, second))


def test_form_and_cover(root):
    data = folder(root)
    batches = list(data.train.batches(0))
    assert len(batches) == data.train.num_batches() == 6
    assert batches[0].images.shape == (4, 3, 16, 16)
    assert batches[0].images.dtype == torch.float32
    assert batches[0].labels.dtype == batches[0].indices.dtype == torch.int64
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == list(range(24))
    assert (data.num_classes, data.in_channels) == (3, 3)
    assert (data.facts["num_train"], data.facts["num_val"], data.facts["num_test"]) == (24, 6, 9)


def test_number_of_workers_changes_nothing(root):
    alone, two = folder(root, label_noise=0.3), folder(root, label_noise=0.3, num_workers=2)
    assert all_equal(alone.train.batches(1), two.train.batches(1))
    assert all_equal(alone.train.full(4), two.train.full(4))
    assert all_equal(alone.test.batches(), two.test.batches())
    assert equal(alone.train.other(3, 9), two.train.other(3, 9))


def test_start_resumes_without_decoding_what_came_before(root, monkeypatch):
    data = folder(root)
    whole = list(data.train.batches(2))
    opened = []
    folder_of_files = data.train._loader.samples.folder
    load = folder_of_files.loader
    monkeypatch.setattr(folder_of_files, "loader", lambda path: opened.append(path) or load(path))
    resumed = list(data.train.batches(2, start=4))
    assert all_equal(whole[4:], resumed)
    assert len(opened) == 8
    assert list(data.train.batches(2, start=6)) == []


def test_samples_are_augmented_by_their_own_seed(root):
    data = folder(root)
    epochs = [{int(i): image for b in data.train.batches(e) for i, image in zip(b.indices, b.images)} for e in (0, 1)]
    assert all(not torch.equal(epochs[0][i], epochs[1][i]) for i in range(24))
    # batch boundaries do not matter: the same sample in the same epoch is the same picture
    wide = {int(i): im for b in folder(root, batch_size=8).train.batches(0) for i, im in zip(b.indices, b.images)}
    assert all(torch.equal(wide[i], epochs[0][i]) for i in range(24))


def test_global_generator_plays_no_part(root):
    data = folder(root)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    batch = next(iter(data.train.batches(0)))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert equal(batch, next(iter(data.train.batches(0))))


def test_other_batches(root):
    data = folder(root)
    batch = next(iter(data.train.batches(0)))
    assert torch.equal(data.train.other(0, 2, batch).images, batch.images[:2])
    more = data.train.other(0, 10, batch)
    assert torch.equal(more.images[:4], batch.images)
    assert len(set(more.indices.tolist())) == 10
    assert sorted(data.train.other(0, 24).indices.tolist()) == list(range(24))
    with pytest.raises(ConfigError, match=r"optimizer.ascent_batch_size=25: must be <= 24"):
        data.train.other(0, 25)


def test_evaluation_resizes_and_crops_the_centre(root):
    data = folder(root, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    first = next(iter(data.test.batches()))
    image = tv.pil_to_tensor(tv.resize(Image.open(root / "val" / "bird" / "0.png"), 18)).float() / 255
    expected = tv.normalize(tv.center_crop(image, 16), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    torch.testing.assert_close(first.images[0], expected)
    labels = torch.cat([b.labels for b in data.test.batches()])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_validation_is_held_out_of_train_and_stays_clean(root):
    noisy = folder(root, label_noise=1.0, noise_includes_true=False)
    samples = noisy.train._loader.samples, noisy.val._loader.samples
    positions = [set(s.positions.tolist()) for s in samples]
    assert not positions[0] & positions[1]
    assert positions[0] | positions[1] == set(range(30))
    true = torch.tensor(samples[0].folder.targets)
    val_labels = torch.cat([b.labels for b in noisy.val.batches()])
    assert torch.equal(val_labels, true[samples[1].positions])
    train_labels = torch.cat([b.labels for b in noisy.train.full(0)])
    assert not bool((train_labels == true[samples[0].positions]).any())
    assert noisy.facts["effective_label_noise"] == 1.0


def test_workers_outlive_the_signals_a_scheduler_sends(root):
    data = folder(root, num_workers=2, batch_size=2)
    before = set(children())
    batches = data.train.batches(0)
    first = next(batches)
    workers = set(children()) - before
    assert len(workers) == 2
    for pid in workers:
        for number in SIGNALS:
            os.kill(pid, number)
    assert all_equal([first, *batches], folder(root, batch_size=2).train.batches(0))
    assert not workers & set(children())  # and they end with the epoch


def test_workers_outlive_signals_from_their_first_moment(root, monkeypatch):
    """As a signal to the whole job that meets workers before they have set up how they take it."""

    def signalled_at_birth(worker):
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        ignore_signals(worker)

    monkeypatch.setattr(streamed, "ignore_signals", signalled_at_birth)
    batches = list(folder(root, num_workers=2, batch_size=2).train.batches(0))
    assert all_equal(batches, folder(root, batch_size=2).train.batches(0))


def test_starting_workers_leaves_the_signals_of_this_process_alone(root):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    next(folder(root, num_workers=1, batch_size=2).train.batches(0))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert not before & set(SIGNALS)  # nor has an earlier test left them blocked


def children():
    return [process.pid for process in multiprocessing.active_children()]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augment": AugmentConfig(flip=True)}, r"data\.augment\.flip=True: is for in-memory sets"),
        ({"mean": [0.0, 0.0], "std": [1.0, 1.0]}, "must have 3 values"),
        ({"test_size": 3}, "has a test part of its own"),
        ({"batch_size": 25}, "must be <= 24"),
    ],
)
def test_refusals(root, fields, message):
    with pytest.raises(ConfigError, match=message):
        folder(root, **fields)


def test_missing_folder(tmp_path):
    with pytest.raises(ConfigError) as raised:
        folder(tmp_path, name="imagenet")
    message = str(raised.value)
    assert str(tmp_path / "train") in message
    assert "python launch.py data=imagenet data.root=PATH" in message
    assert "\n" not in message


def test_classes_that_differ(root, tmp_path):
    (tmp_path / "train").symlink_to(root / "train")
    for name in ("bird", "cat"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "val" / name / "0.png")
    with pytest.raises(ConfigError, match="different classes, first 'dog'"):
        folder(tmp_path)
