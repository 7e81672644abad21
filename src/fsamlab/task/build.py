"""`build_task` turns the `task` section of a config into a task."""

from __future__ import annotations

from collections.abc import Callable

from fsamlab.config import ConfigError, TaskConfig
from fsamlab.config.import_path import call_imported
from fsamlab.task.classification import Classification
from fsamlab.task.own import with_own_parts
from fsamlab.task.regression import Regression
from fsamlab.task.task import Task

TASKS: dict[str, Callable[[TaskConfig, float], Task]] = {
    "classification": lambda cfg, label_smoothing: Classification(label_smoothing, cfg.top5),
    "regression": lambda cfg, label_smoothing: Regression(),
}


def build_task(cfg: TaskConfig, of_data: str, label_smoothing: float = 0.0) -> Task:
    """Build the task that `cfg` names, or the task of the data where it names none, with the user's own parts.

    Args:
        of_data: the task that the data have targets for, `classification` or `regression`.
        label_smoothing: of training, `train.label_smoothing`.

    Raises:
        ConfigError: a task that the data have no targets for, an `import_path` that gives no task, or a loss, metric or
            headline that cannot be used.
    """
    if cfg.import_path is not None:
        task: Task = call_imported("task.import_path", cfg.import_path, Task, **cfg.options)
        check_own(cfg.import_path, task)
        return task
    name = cfg.name or of_data
    if name != of_data:
        raise ConfigError("task.name", name, f"the data have the targets of a {of_data}; leave it null")
    if label_smoothing and name != "classification":
        raise ConfigError("train.label_smoothing", label_smoothing, f"has no effect in a {name}; leave it 0")
    return with_own_parts(TASKS[name](cfg, label_smoothing), cfg)


def check_own(path: str, task: Task) -> None:
    """Refuse a task of a user that lacks what the loop and the records need.

    Raises:
        ConfigError: no name, no metrics, or a headline that is no metric.
    """
    for field in ("name", "headline", "metric_names"):
        if not getattr(task, field, None):
            raise ConfigError("task.import_path", path, f"the task has no {field}; see docs/adding_a_task.md")
    names = [*task.metric_names, "loss"]
    if task.headline not in names:
        allowed = f"headline {task.headline!r} of the task is no metric of it; its metrics are {', '.join(names)}"
        raise ConfigError("task.import_path", path, allowed)
