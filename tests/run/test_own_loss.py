"""A user's own loss, metrics and headline by config keys: trained, measured, shown; what is wrong is one line."""

import pytest
import torch
from support.foreign_loss import focal
from support.runs import build_trainer, compose_diabetes, compose_tiny
from torch.nn import functional as F

from fsamlab.config import ConfigError
from fsamlab.config.identity import config_hash
from fsamlab.diagnostics import Objective, measuring
from fsamlab.run import run
from fsamlab.rundir.inputs import look
from fsamlab.rundir.rows import read_rows
from fsamlab.task import Classification, Regression, Samples, build_task

FOREIGN = "support.foreign_loss"
FOCAL = ("task.loss=support.foreign_loss:focal", "task.options.gamma=1.5")
HUBER = ("task.loss=torch.nn.functional:huber_loss", "task.options.delta=0.5")


def samples(n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator), Samples(torch.zeros(n, 1), torch.arange(n) % 4)


def test_the_loss_is_the_function_with_its_options_and_the_metrics_stay():
    task = build_task(compose_tiny(*FOCAL).task, "classification")
    logits, batch = samples()
    assert torch.equal(task.losses(logits, batch), focal(logits, batch.targets, 1.5))
    assert torch.equal(task.loss(logits, batch), focal(logits, batch.targets, 1.5).mean())
    assert torch.equal(task.metrics(logits, batch)["acc1"], Classification().metrics(logits, batch)["acc1"])
    assert (task.name, task.headline) == ("classification", "acc1")
    assert task.conventions() == {"loss": "support.foreign_loss:focal(gamma=1.5)"}


@pytest.mark.parametrize("path", ["torch.nn.functional:huber_loss", "torch.nn:HuberLoss"])
def test_a_loss_of_torch_is_taken_without_its_mean(path):
    task = build_task(compose_diabetes(f"task.loss={path}", "task.options.delta=0.5").task, "regression")
    outputs, targets = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    expected = F.huber_loss(outputs, targets, reduction="none", delta=0.5).mean(1)
    torch.testing.assert_close(task.losses(outputs, Samples(outputs, targets)), expected)


def test_without_own_parts_the_task_is_the_built_in_one():
    assert build_task(compose_tiny().task, "classification", 0.1) == Classification(0.1)
    assert build_task(compose_diabetes("task.headline=mse").task, "regression") == Regression()


def test_evaluation_leaves_out_what_is_for_training_alone():
    cfg = compose_tiny("task.metrics=[support.foreign_loss:confidence]").task
    task = build_task(cfg, "classification", 0.1)
    logits, batch = samples()
    assert torch.equal(task.loss(logits, batch), Classification(0.1).loss(logits, batch))
    assert torch.equal(task.evaluating().loss(logits, batch), Classification().loss(logits, batch))
    assert task.evaluating().metric_names.keys() == {"acc1", "ece", "confidence"}


def test_a_run_with_an_own_loss_metric_and_headline(tmp_path):
    config = compose_diabetes(
        *HUBER,
        f"task.metrics=[{FOREIGN}:absolute_error]",
        *("task.headline=absolute_error", "task.better=lower", "optimizer=fsam", "train.epochs=4"),
    )
    summary = run(config, tmp_path / "run")
    rows = [row for row in read_rows(tmp_path / "run") if "val/absolute_error" in row]
    errors = [row["val/absolute_error"] for row in rows]
    assert summary["best/val/absolute_error"] == min(errors)
    assert summary["task/title"] == "absolute error"
    assert summary["task/higher_is_better"] is False
    assert summary["diagnostics/loss"] == "torch.nn.functional:huber_loss(delta=0.5)"
    trainer = build_trainer(config)
    (batch,) = trainer.data.test.batches()
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    trainer.model.load_state_dict(state)
    with torch.no_grad():
        outputs = trainer.model(batch.inputs)
    assert summary["final/test/absolute_error"] == pytest.approx(float((outputs - batch.targets).abs().mean()))
    loss = F.huber_loss(outputs, batch.targets, delta=0.5)
    assert summary["final/test/loss"] == pytest.approx(float(loss))
    assert summary["final/test/mse"] == pytest.approx(float((outputs - batch.targets).square().mean()))
    assert "task.loss" in look(config)  # the code of the loss is among the recorded inputs


def test_sharpness_is_that_of_the_own_loss():
    task = build_task(compose_tiny(*FOCAL).task, "classification")
    model = torch.nn.Linear(3, 4).double()
    x, y = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 4
    with measuring(model):
        torch.testing.assert_close(Objective(model, [(x, y)], task).losses(), focal(model(x), y, 1.5).detach())


def test_what_changes_the_weights_is_in_the_run_id():
    base = config_hash(compose_diabetes())
    assert config_hash(compose_diabetes(*HUBER)) != base
    assert config_hash(compose_diabetes(f"task.metrics=[{FOREIGN}:absolute_error]", "task.headline=r2")) == base


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.loss=nowhere.at_all:f"], "task.loss=nowhere.at_all:f: there is no module nowhere"),
        ([f"task.loss={FOREIGN}:absent"], f"task.loss={FOREIGN}:absent: {FOREIGN} has no function absent"),
        ([f"task.loss={FOREIGN}:mse", "task.options.gama=2"], r"cannot be called with \(outputs, targets, gama=\)"),
        ([f"task.loss={FOREIGN}:of_all"], "task.loss=.*: returned a float; it must return a tensor, a loss per sample"),
        (["task.loss=torch.nn:MSELoss", "task.options.reduction=mean"], r"returned shape \(\) for 32 samples; it must"),
        (
            [f"task.metrics=[{FOREIGN}:of_all]"],
            "task.metrics=of_all: returned a float; it must return a tensor",
        ),
        ([f"task.metrics=[{FOREIGN}:mse]"], "task.metrics=.*: the regression has a metric mse; rename the function"),
        ([f"task.metrics=[{FOREIGN}:mse,a:mse]"], "task.metrics=.*: two functions have one name"),
        (["task.headline=acc1"], "task.headline=acc1: must be one of mse, r2, loss"),
        (["task.better=lower"], "task.better=lower: is for a task.headline out of task.metrics"),
        (
            [f"task.metrics=[{FOREIGN}:absolute_error]", "task.headline=absolute_error"],
            "task.better=null: must be higher or lower: absolute_error is a metric of your own",
        ),
        (["task.import_path=a.b:c", "task.loss=a.b:d"], "task.loss=a.b:d: has no effect with task.import_path"),
        (["task.loss=no_colon"], "task.loss=no_colon: must have the form package.module:function"),
        (["task.loss=a.b:c", "train.label_smoothing=0.1"], "train.label_smoothing=0.1: has no effect in a regression"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        run(compose_diabetes(*overrides), tmp_path / "run")
    assert "\n" not in str(caught.value)
