import itertools
import math

import pytest

from fsamlab.config import TrainConfig
from fsamlab.train.schedule import lr_factor


def factors(total, warmup=0, **fields):
    cfg = TrainConfig(epochs=100, **fields)
    return [lr_factor(cfg, step, total, warmup) for step in range(total)]


def test_cosine_is_the_closed_form():
    for step, factor in enumerate(factors(50)):
        assert factor == pytest.approx(0.5 * (1 + math.cos(math.pi * step / 50)), abs=1e-15)


def test_cosine_equals_torchs_scheduler():
    import torch

    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for factor in factors(40):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(factor, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_warmup_is_linear_and_meets_the_schedule():
    found = factors(50, warmup=5)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5] == 1.0
    assert all(a > b for a, b in itertools.pairwise(found[5:]))


def test_step_falls_at_its_milestones():
    found = factors(100, schedule="step", milestones=[0.5, 0.75], gamma=0.1)
    assert found[49] == 1.0
    assert found[50] == pytest.approx(0.1)
    assert found[75] == pytest.approx(0.01)
    assert factors(3, schedule="constant") == [1.0, 1.0, 1.0]
