"""Tasks: what a model is trained for, and how well it does. See :class:`~fsamlab.task.task.Task`."""

from fsamlab.task.classification import Classification
from fsamlab.task.task import Metric, Samples, Task, cast, detached

__all__ = ["Classification", "Metric", "Samples", "Task", "cast", "detached"]
