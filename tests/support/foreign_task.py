"""Tasks as a user brings them, by `task.import_path=support.foreign_task:NAME`."""

import torch
from torch.nn.functional import huber_loss

from fsamlab.task import Metric, Task

METRICS = {"hits": Metric("hits within 0.5", higher_is_better=True, percent=True)}


class Huber(Task):
    """Huber's loss; the share of targets that are hit within 0.5 chooses the best epoch."""

    name = "huber"
    headline = "hits"
    metric_names = METRICS

    def __init__(self, delta):
        self.delta = delta

    def losses(self, outputs, samples):
        return huber_loss(outputs, samples.targets, reduction="none", delta=self.delta).mean(1)

    def metrics(self, outputs, samples):
        return {"hits": ((outputs - samples.targets).abs() < 0.5).all(1).sum()}


def huber(delta=1.0):
    return Huber(delta)


def no_task():
    return torch.nn.Linear(1, 1)


def wrong_headline():
    task = Huber(1.0)
    task.headline = "accuracy"
    return task


def no_name():
    task = Huber(1.0)
    task.name = ""
    return task
