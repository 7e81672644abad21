"""train.ema_decay: the average of the weights, its metrics, its checkpoint, and the weights, which it leaves alone."""

import copy

import pytest
import torch
from support.marks import long_but
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny
from support.trainers import SMALL, after, same_state, step, trainer_of

from fsamlab.command.measurement import checkpoint_of
from fsamlab.config import ConfigError
from fsamlab.config.identity import config_hash
from fsamlab.run import run
from fsamlab.rundir import checkpoint
from fsamlab.rundir.rows import read_rows


@pytest.mark.parametrize(("variant", "parts"), long_but([("fsam", 1)], [(v, 1) for v in VARIANTS] + [("fsam", 2)]))
def test_the_average_follows_the_definition(variant, parts):
    """From the weights after the first step on; statistics of BatchNorm alike, counters copied."""
    plain, trainer = (trainer_of(variant, ema_decay=decay, accumulate_steps=parts) for decay in (None, 0.75))
    expected = {}
    for k in range(4):
        step(plain, k)
        step(trainer, k)
        for key, value in plain.model.state_dict().items():
            if k == 0 or not value.is_floating_point():
                expected[key] = value.clone()
            else:
                expected[key] = expected[key].lerp(value, 0.25)
    found = trainer.averaged.state_dict()
    assert same_state(trainer, plain)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-6, atol=1e-7), key
    assert not torch.equal(found["0.weight"], trainer.model.state_dict()["0.weight"])


def test_rows_summary_and_resume():
    trainer, rows = trainer_of("fsam", ema_decay=0.9), Rows()
    states = []
    rows.boundary = lambda: states.append(copy.deepcopy(trainer.state_dict())) if trainer.step == 7 else None
    trainer.fit(rows)
    last = rows.rows[-1]
    direct = trainer.evaluate(trainer.data.test)
    assert last["test/loss"] == direct["loss"]
    trainer.model.load_state_dict(trainer.averaged.state_dict())
    averaged = trainer.evaluate(trainer.data.test)
    assert {k: last[f"test/ema_{k}"] for k in averaged} == averaged != direct
    summary = trainer.summary()
    assert summary["final/test/ema_acc1"] == last["test/ema_acc1"]
    best = max(rows.rows, key=lambda row: row.get("val/acc1", -1))  # not the epoch that the average is best at
    assert summary["best/test/ema_loss"] == best["test/ema_loss"]
    resumed = trainer_of("fsam", ema_decay=0.9)
    resumed.load_state_dict(states[0])
    resumed.fit(Rows())
    again = resumed.averaged.state_dict()
    assert all(torch.equal(again[key], value) for key, value in trainer.averaged.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_that_is_left_out_counts(precision):
    """The weights stand still, and the average moves towards them."""
    trainer = after(3, trainer_of("fsam", ema_decay=0.5, precision=precision))
    before = copy.deepcopy(trainer.averaged.state_dict()["0.weight"])
    now = trainer.model.state_dict()["0.weight"].clone()
    batch = next(iter(trainer.data.train.batches(0)))
    batch.inputs.fill_(float("nan"))
    trainer.stepper.make(batch, 3)
    trainer.averaged.update(trainer.model, 4)
    assert trainer.optimizer.num_nonfinite == 1
    assert torch.equal(trainer.averaged.state_dict()["0.weight"], before.lerp(now, 0.5))


def test_the_checkpoint_of_a_run(tmp_path):
    config = compose_tiny(*SMALL, "optimizer=sgd", "train.ema_decay=0.9", "train.epochs=1")
    with pytest.raises(ConfigError, match=r"a run with train\.ema_decay ends with it"):
        checkpoint_of(tmp_path / "run", "ema")
    run(config, tmp_path / "run")
    found = checkpoint.load(checkpoint_of(tmp_path / "run", "ema"))
    trainer = build_trainer(config)
    trainer.model.load_state_dict(found["model"])  # the keys of the plain network
    assert found["step"] == trainer.last_step
    assert read_rows(tmp_path / "run")[-1]["test/ema_loss"] == trainer.evaluate(trainer.data.test)["loss"]
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt").keys() == {"model", "step"}


def test_another_decay_is_another_run():
    hashes = {config_hash(compose_tiny("optimizer=sgd", f"train.ema_decay={d}")) for d in ("null", 0.9, 0.99)}
    assert len(hashes) == 3


@pytest.mark.parametrize("decay", ["0", "1", "-1"])
def test_a_decay_outside_of_its_range_is_refused(decay):
    with pytest.raises(ConfigError, match=r"train\.ema_decay"):
        compose_tiny(f"train.ema_decay={decay}")
