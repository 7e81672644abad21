"""A full measurement of what has none of something: no batch norm, one class, fewer samples than asked for."""

from __future__ import annotations

import math

import pytest
import torch
from support.runs import build_trainer, compose_tiny

from fsamlab.diagnostics import measuring
from fsamlab.diagnostics.curvature import spectrum
from fsamlab.diagnostics.objective import Objective
from fsamlab.diagnostics.sharpness import m_sharpness, m_worst_case, worst_case

FULL = (
    "optimizer=fsam",
    "train.max_steps=4",
    "diagnostics=full",
    "diagnostics.num_samples=48",
    "diagnostics.batch_size=16",
    "diagnostics.num_batches=2",
    "diagnostics.max_products=12",
    "diagnostics.num_probes=2",
    "diagnostics.num_ascent_steps=2",
    "diagnostics.num_pairs=2",
    "diagnostics.every_epochs=null",
    "diagnostics.every_steps=null",
)
MLP = ("model.import_path=support.foreign:NoNorm", "model.width=null", "model.name=mlp")
DROPOUT = ("model=wrn28_10", "model.depth=10", "model.width=1", "model.dropout=0.3")


class Quiet:
    def row(self, row):
        pass

    boundary = poll = lambda self: None

    def stopping(self):
        return False


def trained(*overrides):
    trainer = build_trainer(compose_tiny(*FULL, *overrides))
    trainer.fit(Quiet())
    return trainer


def test_without_batch_norm_all_modes_are_one():
    found = []
    for mode in ("eval", "batch", "reestimated"):
        trainer = trained(*MLP, f"diagnostics.batchnorm={mode}")
        found.append(trainer.diagnostics.measure(trainer.snapshot()))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 80
    assert all(math.isfinite(value) for value in found[0].values())


@pytest.mark.long
def test_with_dropout_a_measurement_repeats_itself_and_leaves_the_random_state():
    trainer = trained(*DROPOUT)
    assert trainer.conventions()["perturbation_dropout"] == "on"
    state, weights = torch.get_rng_state(), [p.clone() for p in trainer.model.parameters()]
    first = trainer.diagnostics.measure(trainer.snapshot())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)  # another state: masks are those of the steps to come, not the next random numbers
    assert trainer.diagnostics.measure(trainer.snapshot()) == first
    assert all(torch.equal(a, b) for a, b in zip(weights, trainer.model.parameters()))


def test_the_m_on_record_is_that_of_the_batches():
    assert trained("diagnostics.num_samples=10", "diagnostics.batch_size=128").conventions()["batch_size"] == 10
    assert trained("diagnostics.num_samples=10", "diagnostics.batch_size=4").conventions()["batch_size"] == 4


@pytest.mark.parametrize("variant", ["sgd", "random"])
def test_scalars_of_what_a_variant_has_not_are_absent(variant):
    trainer = trained(f"optimizer={variant}")
    found = trainer.diagnostics.measure(trainer.snapshot())
    assert not {key for key in found if "ema" in key}
    assert all(math.isfinite(value) for value in found.values())
    assert not {key for key in trainer.scalars.values if "ema" in key or key.startswith("perturbation/cos_full")}


def test_float64_weights_are_measured_on_float64_images():
    trainer = trained(*MLP)
    single = trainer.diagnostics.measure(trainer.snapshot())
    trainer.model.double()
    double = trainer.diagnostics.measure(trainer.snapshot())
    assert trainer.conventions()["dtype"] == "float64"
    for key in ("sharpness/one_step", "sharpness/m_sharpness", "curvature/trace"):
        assert double[key] == pytest.approx(single[key], rel=1e-3)


@pytest.fixture
def one_class():
    model = torch.nn.Linear(3, 1)
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 3, generator=g), torch.zeros(4, dtype=torch.long)) for _ in range(2)]
    with measuring(model):
        yield Objective(model, batches)


def test_one_class_has_a_loss_of_zero_everywhere(one_class):
    """The cross-entropy of one class is 0: no sharpness, no curvature, and ratios that are not defined."""
    for rise in (*m_sharpness(one_class, 0.1), worst_case(one_class, 0.1), m_worst_case(one_class, 0.1)):
        assert (rise.total, rise.first_order) == (0.0, 0.0)
    found = spectrum(one_class, num_eigenvalues=2)
    assert found["lambda_max"] == found["lambda_min"] == 0.0
    assert "lambda_ratio" not in found
    assert all(math.isfinite(value) for value in found.values())
