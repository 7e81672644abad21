"""The passes of runs that have not counted them: what their settings determine, and nothing else."""

import dataclasses
import math

import pandas as pd
import pytest
from support.marks import long_but
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny

from fsamlab.results.collect import flatten
from fsamlab.results.passes import equal, total_passes

UNEVEN = ("data.num_samples=260", "train.epochs=2")  # the last batch of an epoch is smaller
ASKED = {
    **{variant: (f"optimizer={variant}",) for variant in VARIANTS},
    "every": ("optimizer=fsam_quarter", "optimizer.every=3"),
    "full_every": ("optimizer=sam_noise", "optimizer.full_every_steps=4"),
    "drop_last": ("optimizer=sam_batch", "data.drop_last=true"),
}
KINDS = ("fsam_quarter", "sam_full", "multistep_sam", "esam", "every")


def recorded(*overrides):
    """The row of a run in `collect`."""
    config = compose_tiny(*UNEVEN, *overrides)
    trainer = build_trainer(config)
    trainer.fit(Rows())
    num_train = {"data/num_train": trainer.data.train.num_samples}
    return {**flatten(dataclasses.asdict(config)), **trainer.summary(), **num_train}


@pytest.mark.parametrize("which", long_but(KINDS, ASKED))
def test_the_settings_determine_what_a_run_counts(which):
    row = recorded(*ASKED[which])
    counted = row.pop("cost/passes")
    (derived,) = total_passes(pd.DataFrame([row]))
    if which == "ae_sam":
        assert math.isnan(derived)
    else:
        assert derived == pytest.approx(counted, rel=1e-12)


SAM = {
    "optimizer.ascent": "batch",
    "cost/steps": 20,
    "cost/epochs": 2.0,
    "data.batch_size": 10,
    "data/num_train": 100,
}


def test_what_a_run_has_counted_counts_and_the_rest_is_derived():
    frame = pd.DataFrame([{**SAM, "cost/passes": 3.5}, SAM, {**SAM, "optimizer.ascent": "none"}], index=[3, 1, 2])
    assert total_passes(frame).to_dict() == {3: 3.5, 1: 4.0, 2: 2.0}


@pytest.mark.parametrize(
    "unknown",
    [
        {"optimizer.when": "adaptive"},
        {"optimizer.start": 0.5},
        {"optimizer.ascent": "mine:Ascent"},
        {"optimizer.reference": "mine:Reference"},
        {"optimizer.descent": "mine:Descent"},
        {"cost/epochs": None},
        {"data/num_train": None},
        {"data/num_train": 1000},
    ],
)
def test_what_the_settings_do_not_determine_is_not_known(unknown):
    (found,) = total_passes(pd.DataFrame([{**SAM, **unknown}]))
    assert math.isnan(found)


def test_runs_without_settings():
    assert total_passes(pd.DataFrame({"seed": [0]})).isna().all()


@pytest.mark.parametrize(("a", "b", "same"), [(20, 20, True), (20, 19.5, True), (20, 19, False), (10, math.nan, False)])
def test_equal_compute(a, b, same):
    assert equal(a, b) is equal(b, a) is same
