"""A regression from its configuration to the summary: resumed after a kill, refused where nothing fits."""

import dataclasses
import json
import math
import os
import signal

import pytest
import torch
from support.processes import CONTEXT, FileFunction
from support.runs import build_trainer, compose_diabetes

from fsamlab.config import ConfigError, TaskConfig, from_plain, to_plain
from fsamlab.config.identity import run_id
from fsamlab.run import run
from fsamlab.rundir import checkpoint
from fsamlab.rundir.record import RunRecord
from fsamlab.rundir.rows import read_rows
from fsamlab.train.evaluation import evaluate


def evaluated(directory):
    return [row for row in read_rows(directory) if "val/mse" in row]


def timeless(directory):
    return [{k: v for k, v in row.items() if not k.startswith("time")} for row in read_rows(directory)]


def train_until(step, directory, overrides):
    """Train in a process of its own, which is killed before the row of `step` is written."""
    append = RunRecord.append

    def dies(self, row):
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, row)

    RunRecord.append = dies
    run(compose_diabetes(*overrides), directory)


@pytest.mark.long
def test_a_regression_that_is_killed_and_resumed_ends_in_the_same_bits(tmp_path):
    overrides = ("optimizer=fsam", "train.checkpoint_every_steps=4", "train.save_best=true")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = run(compose_diabetes(*overrides), whole)
    process = CONTEXT.Process(target=FileFunction(__file__, "train_until"), args=(18, killed, overrides))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [row["step"] for row in evaluated(killed)] == [9]
    again = run(compose_diabetes(*overrides), killed)
    weights = [checkpoint.load(d / "checkpoints" / "last.pt")["model"] for d in (whole, killed)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    assert timeless(whole) == timeless(killed)
    for key in summary:
        assert key.endswith(("seconds", "step_ms")) or summary[key] == again[key], key


def test_rows_best_epoch_and_summary_go_by_the_error(tmp_path):
    config = compose_diabetes("optimizer=sam", "model.width=64", "train.epochs=10", "train.save_best=true")
    summary = run(config, tmp_path / "run")
    rows = evaluated(tmp_path / "run")
    errors = [row["val/mse"] for row in rows]
    best = rows[errors.index(min(errors))]
    assert min(errors) < errors[-1]
    assert {k: summary[f"best/{k}"] for k in ("step", "val/mse", "test/mse", "test/r2")} == {
        k: best[k] for k in ("step", "val/mse", "test/mse", "test/r2")
    }
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")["step"] == best["step"]
    assert not any("acc1" in key for row in (*rows, summary) for key in row)
    assert summary["task/headline"] == "mse"
    assert summary["task/higher_is_better"] is False
    assert rows[0]["train/mse"] == pytest.approx(rows[0]["train/loss"], rel=1e-6)
    assert summary["diagnostics/loss"] == "regression"
    assert summary["final/sharpness/one_step"] > 0
    latest = json.loads((tmp_path / "run" / "status.json").read_text())["latest"]
    assert latest["val/mse"] == errors[-1]


def test_evaluation_is_the_formula_on_the_data():
    trainer = build_trainer(compose_diabetes())
    found = evaluate(trainer.passes, trainer.data.test, lambda: None)
    (batch,) = trainer.data.test.batches()
    with torch.no_grad():
        error = (trainer.model(batch.inputs) - batch.targets).double()
    variance = batch.targets.double().var(correction=0)
    assert found["mse"] == pytest.approx(error.square().mean().item(), rel=1e-6)
    assert found["r2"] == pytest.approx(1 - (error.square().mean() / variance).item(), rel=1e-6)
    assert found["loss"] == pytest.approx(found["mse"], rel=1e-6)
    assert math.isfinite(found["r2"])


def test_the_task_is_in_the_record_and_not_in_the_run_id_unless_it_is_set():
    config = compose_diabetes()
    plain = to_plain(config)
    assert plain["task"] == dataclasses.asdict(TaskConfig())
    assert run_id(from_plain({k: v for k, v in plain.items() if k != "task"})) == run_id(config)
    own = compose_diabetes("task.import_path=support.foreign_task:huber")
    assert run_id(own) != run_id(config)
    other = compose_diabetes("task.import_path=support.foreign_task:huber", "task.options.delta=2.0")
    assert len({run_id(own), run_id(other), run_id(config)}) == 3
    assert run_id(from_plain(to_plain(other))) == run_id(other)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.name=classification"], r"task.name=classification: data=diabetes has the targets of a regression"),
        (["data=digits", "model=small_cnn", "task.name=regression"], r"task.name=regression: data=digits has the"),
        (["model=small_cnn"], r"model=small_cnn: cannot be trained on a table, data=diabetes; .* model=mlp"),
        (["data=digits"], r"model=mlp: cannot be trained on a set of images, data=digits; .* model=small_cnn"),
        (["train.label_smoothing=0.1"], r"train.label_smoothing=0.1: has no effect in a regression"),
        (["train.channels_last=true"], r"train.channels_last=True: is for images"),
        (["data.label_noise=0.4"], r"data.label_noise=0.4: is for the labels of a classification"),
        (["data.augment.flip=true"], r"data.augment.flip=True: is for images"),
        (["task.top5=true"], r"task.top5=True: has an effect in a classification alone"),
        (["task.options.delta=1"], r"task.options=\{'delta': 1\}: has no effect without task.import_path"),
        (["task.import_path=a.b:c", "task.name=regression"], r"task.name=regression: has no effect with task.import"),
        (["task.name=regresion"], r"task.name=regresion: must be one of .*did you mean regression"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose_diabetes(*overrides)
    assert "\n" not in str(caught.value)
