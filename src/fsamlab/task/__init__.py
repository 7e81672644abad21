"""Tasks: what a model is trained for, and how well it does. See :class:`~fsamlab.task.task.Task`."""

from fsamlab.task.build import build_task
from fsamlab.task.classification import Classification
from fsamlab.task.own import Own
from fsamlab.task.regression import Regression
from fsamlab.task.task import Metric, Samples, Task, cast, detached

__all__ = ["Classification", "Metric", "Own", "Regression", "Samples", "Task", "build_task", "cast", "detached"]
