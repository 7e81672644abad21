from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy

from fsamlab.config import AugmentConfig, ConfigError, DataConfig, SyntheticConfig
from fsamlab.data import Batch, Mixing, build_data, mixing_of
from fsamlab.task import Classification

CPU = torch.device("cpu")
CLASSES = 5


def batch_of(n=8, side=6, seed=0):
    gen = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=gen)
    return Batch(torch.rand(n, 3, side, side, generator=gen), labels, torch.arange(n))


def mixing(seed=0, batch_size=8, **augment):
    return Mixing(DataConfig(name="mine", batch_size=batch_size, augment=AugmentConfig(**augment)), CLASSES, seed)


def lam_of(batch, mixed):
    """Return lam from a sample whose partner has another class; the probability of its own class is lam."""
    partner = batch.labels.flip(0)
    own = mixed.targets.gather(1, batch.labels[:, None])[:, 0]
    return own[batch.labels != partner][0].double()


def test_the_mixed_loss_is_lam_times_the_loss_of_one_label_and_1_minus_lam_times_that_of_the_other():
    batch = batch_of()
    mixed = mixing(mixup=0.8).descent(batch, step=3)
    lam = lam_of(batch, mixed)
    assert 0 < lam < 1
    pixels = lam * batch.inputs.double() + (1 - lam) * batch.inputs.flip(0).double()
    torch.testing.assert_close(mixed.inputs.double(), pixels, rtol=0, atol=1e-6)
    logits = torch.randn(8, CLASSES, dtype=torch.float64)
    own, other = (F.cross_entropy(logits, labels, reduction="none") for labels in (batch.labels, batch.labels.flip(0)))
    task = Classification()
    expected = lam * own + (1 - lam) * other  # lam is a float32 number, as the mixed probabilities are
    torch.testing.assert_close(task.losses(logits, mixed), expected, rtol=1e-6, atol=1e-7)
    both = mixed.targets.double()
    exact = both.gather(1, batch.labels[:, None])[:, 0] * own
    exact += torch.where(batch.labels == batch.labels.flip(0), 0, 1 - lam) * other
    torch.testing.assert_close(task.losses(logits, mixed), exact, rtol=2e-7, atol=0)
    assert task.loss(logits, mixed).item() == pytest.approx(task.losses(logits, mixed).mean().item(), rel=1e-12)


def test_label_smoothing_gives_the_targets_and_the_loss_of_timm():
    batch = batch_of()
    mixed = mixing(mixup=0.8).descent(batch, step=3)
    logits = torch.randn(8, CLASSES)
    smoothed = mixup_target(batch.labels, CLASSES, float(lam_of(batch, mixed)), smoothing=0.1)
    found = Classification(label_smoothing=0.1).loss(logits, mixed)
    torch.testing.assert_close(found, SoftTargetCrossEntropy()(logits, smoothed), rtol=1e-6, atol=1e-6)


def test_cutmix_pastes_one_box_and_lam_is_the_area_that_is_left():
    batch = batch_of(side=12)
    mixed = next(m for m in (mixing(cutmix=1.0).descent(batch, step) for step in range(50)) if lam_of(batch, m) < 0.9)
    own, pasted = mixed.inputs == batch.inputs, mixed.inputs == batch.inputs.flip(0)
    assert bool((own | pasted).all())
    assert own.double().mean().item() == pytest.approx(float(lam_of(batch, mixed)))


def test_which_batches_are_mixed_and_how_follows_from_seed_and_step_alone():
    batch, mix = batch_of(), mixing(mixup=0.8)
    before = batch.inputs.clone()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = mix.descent(batch, 7)
    assert random.getstate() == states[0]  # no generator of the run is disturbed
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.equal(batch.inputs, before)
    again = mixing(mixup=0.8).descent(batch, 7)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    others = (mix.descent(batch, 8), mix.ascent(batch, 7), mixing(1, mixup=0.8).descent(batch, 7))
    draws = [lam_of(batch, mixed) for mixed in (first, *others)]
    assert len({float(lam) for lam in draws}) == 4


def test_mix_prob_and_switch_prob_are_shares_of_the_batches():
    batch = batch_of(side=12)
    sometimes, both = mixing(mixup=1.0, mix_prob=0.3), mixing(mixup=1.0, cutmix=1.0, switch_prob=0.25)
    mixed = [not torch.equal(sometimes.descent(batch, step).inputs, batch.inputs) for step in range(400)]
    assert sum(mixed) / 400 == pytest.approx(0.3, abs=0.07)  # 3 deviations
    pasted = 0
    for step in range(400):
        found = both.descent(batch, step).inputs
        pasted += bool(((found == batch.inputs) | (found == batch.inputs.flip(0))).all())
    assert pasted / 400 == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_last_sample_of_an_odd_batch_stays_unmixed(n):
    batch = batch_of(n)
    mixed = mixing(mixup=0.8).descent(batch, 0)
    assert mixed.targets.shape == (n, CLASSES)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(n))
    if n % 2:
        assert torch.equal(mixed.inputs[-1], batch.inputs[-1])
        assert torch.equal(mixed.targets[-1], F.one_hot(batch.labels[-1], CLASSES).float())


def test_a_full_pass_is_mixed_in_pieces_of_a_batch():
    chunk = batch_of(20)
    mixed = mixing(batch_size=8, mixup=0.8).full(chunk, step=2, number=1)
    assert torch.equal(mixed.indices, chunk.indices)
    lams = []
    for piece in (slice(0, 8), slice(8, 16), slice(16, 20)):
        lams.append(lam_of(*(Batch(b.inputs[piece], b.targets[piece], b.indices[piece]) for b in (chunk, mixed))))
    assert len({float(lam) for lam in lams}) == 3


def test_what_cannot_be_mixed_is_refused_in_one_line():
    data = build_data(SyntheticConfig(name="synthetic", test_size=100, val_size=100), 0, CPU, Path())
    cfg = DataConfig(name="mine", augment=AugmentConfig(mixup=0.2))
    assert isinstance(mixing_of(cfg, data, 0), Mixing)
    assert mixing_of(DataConfig(name="mine"), data, 0) is None
    data.task = "regression"
    with pytest.raises(ConfigError, match=r"data\.augment\.mixup=0\.2: mixes labels of classes; a regression has none"):
        mixing_of(cfg, data, 0)
    flat = Batch(torch.rand(4, 3), torch.zeros(4).long(), torch.arange(4))
    assert mixing(mixup=0.2).descent(flat, 0).inputs.shape == (4, 3)
    with pytest.raises(ConfigError, match=r"cutmix=1\.0: cuts boxes out of images; the data give .*\(4, 3\)"):
        mixing(cutmix=1.0).descent(flat, 0)
    with pytest.raises(ConfigError, match=r"data\.augment\.mixup=0\.2: mixes labels .*targets torch\.float32 of shape"):
        mixing(mixup=0.2).descent(Batch(flat.inputs, torch.rand(4, 1), flat.indices), 0)
    with pytest.raises(ConfigError, match=r"mixes labels of classes, int64 \(n,\); the data give targets torch\.int32"):
        mixing(mixup=0.2).descent(Batch(flat.inputs, torch.zeros(4).int(), flat.indices), 0)
    with pytest.raises(ConfigError, match=r"data\.augment\.mixup=0\.4: is for images; data=diabetes has none"):
        DataConfig(name="diabetes", augment=AugmentConfig(mixup=0.4))
    with pytest.raises(ConfigError, match=r"data\.augment\.mix_prob=2\.0: must be finite and >= 0 and <= 1"):
        AugmentConfig(mix_prob=2.0)
