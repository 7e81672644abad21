import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fsamlab.config import AugmentConfig, ConfigError, DataConfig, SyntheticConfig
from fsamlab.data import DATASETS, Data, build_data
from fsamlab.data.in_memory import Images, InMemoryTrain

CPU = torch.device("cpu")
NOWHERE = Path("/nonexistent")


def synthetic(seed=0, **fields):
    defaults = {"num_samples": 120, "test_size": 20, "val_size": 10, "batch_size": 16, "eval_batch_size": 40}
    augment = AugmentConfig(crop_padding=1, flip=True, cutout=3)
    cfg = SyntheticConfig(**{"name": "synthetic", "augment": augment, **defaults, **fields})
    return build_data(cfg, seed, CPU, NOWHERE)


def equal(a, b):
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


def test_batches_have_the_promised_form():
    data = synthetic(label_noise=0.3)
    batches = list(data.train.batches(0))
    assert len(batches) == data.train.num_batches() == 6
    assert [len(b) for b in batches] == [16] * 5 + [10]
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert batch.images.shape[1:] == (1, 8, 8)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == list(range(90))
    assert (data.num_classes, data.in_channels) == (10, 1)
    assert (data.facts["num_train"], data.facts["num_val"], data.facts["num_test"]) == (90, 10, 20)


def test_drop_last():
    data = synthetic(drop_last=True)
    assert [len(b) for b in data.train.batches(0)] == [16] * 5
    assert data.train.num_batches() == 5


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_start_skips_without_changing_what_follows(start):
    data = synthetic()
    whole = list(data.train.batches(3))
    resumed = list(synthetic().train.batches(3, start))
    assert len(resumed) == len(whole) - start
    assert all(equal(a, b) for a, b in zip(whole[start:], resumed))


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    first, second = (next(synthetic().train.batches(e)) for e in (0, 1))
    assert not torch.equal(first.indices, second.indices)
    alike = Images(torch.rand(1, 1, 8, 8).expand(90, -1, -1, -1), torch.zeros(90, dtype=torch.int64))
    cfg = DataConfig(name="toy", batch_size=30, augment=AugmentConfig(crop_padding=1, flip=True))
    pictures = [  # of equal images, so that only the augmentation can tell them apart
        batch.images.flatten()
        for seed in (0, 1)
        for epoch in (0, 1)
        for batch in InMemoryTrain(alike, cfg, seed, CPU).batches(epoch)
    ]
    assert len(torch.stack(pictures).unique(dim=0)) == len(pictures) == 12
    assert synthetic(seed=0).facts["split_hash"] != synthetic(seed=1).facts["split_hash"]


def test_global_generator_plays_no_part():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    batch = next(synthetic(label_noise=0.5).train.batches(0))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert equal(batch, next(synthetic(label_noise=0.5).train.batches(0)))


def test_other_batch_is_an_independent_draw_without_replacement():
    data = synthetic()
    other = data.train.other(step=5, size=90)
    assert sorted(other.indices.tolist()) == list(range(90))
    assert equal(other, synthetic().train.other(5, 90))
    small = data.train.other(5, 16)
    assert not torch.equal(small.indices, data.train.other(6, 16).indices)
    # independent of the descent batch: over many steps it shares no more than 16 * 16 / 90 samples with it
    descent = next(data.train.batches(0)).indices
    shared = [int(torch.isin(data.train.other(s, 16).indices, descent).sum()) for s in range(300)]
    assert sum(shared) / 300 == pytest.approx(16 * 16 / 90, rel=0.15)


def test_nested_other_batch():
    data = synthetic()
    batch = next(data.train.batches(0))
    inside = data.train.other(7, 4, nested_in=batch)
    assert torch.equal(inside.images, batch.images[:4])
    assert torch.equal(inside.labels, batch.labels[:4])
    outside = data.train.other(7, 40, nested_in=batch)
    assert torch.equal(outside.images[:16], batch.images)
    assert len(set(outside.indices.tolist())) == len(outside) == 40
    assert equal(outside, data.train.other(7, 40, nested_in=batch))


@pytest.mark.parametrize("nested", [False, True])
def test_other_batch_larger_than_the_set(nested):
    data = synthetic()
    nested_in = next(data.train.batches(0)) if nested else None
    with pytest.raises(ConfigError, match=r"optimizer.ascent_batch_size=91: must be <= 90"):
        data.train.other(0, 91, nested_in)


def test_full_pass_covers_the_set_once_in_even_chunks():
    data = synthetic(eval_batch_size=89)  # cut greedily, the last chunk would have a single sample
    chunks = list(data.train.full(0))
    assert [len(c) for c in chunks] == [45, 45]
    assert torch.equal(torch.cat([c.indices for c in chunks]), torch.arange(90))
    assert all(equal(a, b) for a, b in zip(chunks, data.train.full(0)))
    assert not equal(chunks[0], next(data.train.full(1)))


def test_evaluation_is_plain_ordered_and_clean():
    clean, noisy = synthetic(), synthetic(label_noise=1.0, noise_includes_true=False)
    for a, b in ((clean.val, noisy.val), (clean.test, noisy.test)):
        first, second = list(a.batches()), list(b.batches())
        assert all(equal(x, y) for x, y in zip(first, second))
        assert torch.equal(torch.cat([x.indices for x in first]), torch.arange(a.num_samples))
    labels = [torch.cat([x.labels[x.indices.argsort()] for x in d.train.full(0)]) for d in (clean, noisy)]
    assert not bool((labels[0] == labels[1]).any())
    assert (clean.facts["effective_label_noise"], noisy.facts["effective_label_noise"]) == (0.0, 1.0)


def test_effective_noise_is_measured_against_the_true_labels():
    clean, noisy = synthetic(num_samples=1030), synthetic(num_samples=1030, label_noise=0.4)
    labels = [torch.cat([x.labels for x in d.train.full(0)]) for d in (clean, noisy)]
    assert noisy.facts["effective_label_noise"] == (labels[0] != labels[1]).double().mean().item()
    assert 0.3 < noisy.facts["effective_label_noise"] < 0.4  # a tenth of the redrawn ones stays true


def test_no_validation_set():
    assert synthetic(val_size=0).val is None


def test_digits():
    cfg = DataConfig(name="digits", test_size=497, val_size=300)
    data = build_data(cfg, 0, CPU, NOWHERE)
    assert (data.train.num_samples, data.val.num_samples, data.test.num_samples) == (1000, 300, 497)
    images = next(data.test.batches()).images
    assert images.shape[1:] == (1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    # disjoint: what is held out does not come again (digits has no two equal images)
    parts = [torch.cat([b.images for b in s]) for s in (data.train.full(0), data.val.batches(), data.test.batches())]
    everything = torch.cat(parts).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything) == 1797


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": [0.0, 0.0], "std": [1.0, 1.0]}, "data.mean=.*must have 1 values"),
        ({"augment": AugmentConfig(cutout=8)}, "data.augment.cutout=8: must be smaller than synthetic's 8x8"),
        ({"batch_size": 91}, "data.batch_size=91: must be <= 90"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(**fields)


def test_unknown_name_and_wrong_schema():
    with pytest.raises(ConfigError, match="did you mean cifar10"):
        build_data(DataConfig(name="cifr10"), 0, CPU, NOWHERE)
    for name in ("synthetic", "imagenet"):
        with pytest.raises(ConfigError, match=f"choose the data set with data={name}"):
            build_data(DataConfig(name=name), 0, CPU, NOWHERE)


def test_workers_for_memory_are_said_to_be_unused(caplog):
    with caplog.at_level(logging.WARNING):
        synthetic(num_workers=2)
    assert "data.num_workers=2 has no effect" in caplog.text


def build_of_my_own(cfg, seed, device, project_root):
    data = build_data(SyntheticConfig(name="synthetic", test_size=12), seed, device, project_root)
    data.facts["from"] = cfg.name
    return data


def test_import_path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    data = build_data(DataConfig(name="mine", import_path="test_in_memory:build_of_my_own"), 0, CPU, NOWHERE)
    assert isinstance(data, Data)
    assert data.facts["from"] == "mine"


def test_table_has_the_documented_names():
    assert set(DATASETS) == {
        *("digits", "fashion_mnist", "cifar10", "cifar100", "synthetic", "imagenet", "image_folder"),
        *("diabetes", "flowers102", "oxford_pets", "stanford_cars"),
    }


class NumCalls(TorchDispatchMode):
    """Counts the operators that torch executes."""

    num = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.num += 1
        return function(*args, **(kwargs or {}))


def test_augmentation_has_no_loop_over_images():
    def num_calls(batch_size):
        augment = AugmentConfig(crop_padding=4, flip=True, cutout=8)
        data = synthetic(num_samples=128, channels=3, image_size=16, batch_size=batch_size, augment=augment)
        with NumCalls() as calls:
            next(data.train.batches(0))
        return calls.num

    assert num_calls(64) == num_calls(2)
