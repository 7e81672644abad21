"""The key `objective` names a metric that the run's evaluations have, else the run does not begin."""

import pytest
import torch
from support.runs import DIABETES, compose_bare, compose_tiny

from fsamlab.config import ConfigError
from fsamlab.run import build

CPU = torch.device("cpu")


@pytest.mark.parametrize("words", [["objective=val/loss"], ["objective=final/val/ema_acc1", "train.ema_decay=0.9"]])
def test_every_metric_of_the_evaluation_can_be_the_objective(words):
    build(compose_tiny(*words), CPU)


@pytest.mark.parametrize("metric", ["val/acc9", "best/val/ema_acc1"])
def test_a_metric_that_no_evaluation_has_is_named(metric):
    with pytest.raises(
        ConfigError, match=rf"objective={metric}: is no metric of this run, which has val/loss, val/acc1"
    ):
        build(compose_tiny(f"objective={metric}"), CPU)


def test_the_metrics_are_those_of_the_task():
    build(compose_bare(*DIABETES, "objective=val/mse"), CPU)
    with pytest.raises(ConfigError, match=r"objective=val/acc1: is no metric of this run, which has val/loss, val/mse"):
        build(compose_bare(*DIABETES, "objective=val/acc1"), CPU)
