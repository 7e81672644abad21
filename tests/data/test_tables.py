"""Tables: diabetes, standardised by the training part, in the order of image sets."""

import logging
from pathlib import Path

import pytest
import torch

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data import build_data

CPU = torch.device("cpu")


def diabetes(seed=0, **fields):
    cfg = DataConfig(**{"name": "diabetes", "test_size": 100, "val_size": 64, "batch_size": 32, **fields})
    return build_data(cfg, seed, CPU, Path("/nonexistent"))


def whole(source):
    batches = list(source.batches(0)) if hasattr(source, "other") else list(source.batches())
    return torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])


def test_columns_and_targets_have_mean_0_and_deviation_1_in_the_training_part_alone():
    data = diabetes()
    columns, values = whole(data.train)
    assert (columns.shape, values.shape, columns.dtype, values.dtype) == ((278, 10), (278, 1), *[torch.float32] * 2)
    for x in (columns.double(), values.double()):
        torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), atol=1e-6, rtol=0)
        torch.testing.assert_close(x.std(0, correction=0), torch.ones_like(x[0]), atol=1e-6, rtol=0)
    test = whole(data.test)[0]
    assert test.shape == (100, 10)
    assert 0.01 < test.mean(0).abs().max() < 0.5
    assert (data.task, data.num_classes, data.in_channels) == ("regression", 1, 10)


def test_the_three_parts_are_the_442_patients_and_depend_on_the_seed():
    facts = [diabetes(seed).facts for seed in (0, 0, 1)]
    assert [facts[0][f"num_{part}"] for part in ("train", "val", "test")] == [278, 64, 100]
    assert facts[0] == facts[1]
    assert facts[0]["split_hash"] != facts[2]["split_hash"]


def test_batches_depend_on_seed_and_epoch_and_start_anywhere():
    train = diabetes().train
    for a, b in zip(list(train.batches(3))[4:], train.batches(3, start=4), strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    assert not torch.equal(next(train.batches(0)).indices, next(train.batches(1)).indices)
    batch = next(train.batches(0))
    assert torch.equal(train.at(batch.indices).inputs, batch.inputs)
    other = train.other(5, 40, nested_in=batch)
    assert torch.equal(other.inputs[:32], batch.inputs)
    assert len(other.indices.unique()) == 40
    assert sum(len(part) for part in train.full(0)) == 278


def test_old_names_of_a_batch_stay():
    batch = next(diabetes().train.batches(0))
    assert batch.images is batch.inputs
    assert batch.labels is batch.targets


def test_workers_have_no_effect(caplog):
    with caplog.at_level(logging.WARNING):
        diabetes(num_workers=2)
    assert "data.num_workers=2 has no effect" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_noise": 0.4}, r"data.label_noise=0.4: is for the labels of a classification; data=diabetes has none"),
        ({"mean": [0.5], "std": [1.0]}, r"data.mean=\[0.5\]: is for images; data=diabetes has none"),
        ({"test_size": 400}, r"data.val_size=64: test \(400\) and validation \(64\) must leave some of 442 samples"),
        ({"train_size": 1, "batch_size": 1}, r"data.train_size=1: all training targets are equal"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        diabetes(**fields)
