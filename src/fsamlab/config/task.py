"""The schema of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fsamlab.checks import ConfigError, ImportPath, check_fields, function_path, is_recorded, listed, text, word

TASKS = ("classification", "regression")  # the tasks of fsamlab.task
OF_A_BUILT_IN_TASK = ("name", "loss", "metrics", "headline", "better")  # a task at import_path says these itself


@dataclass
class TaskConfig:
    """What the model is trained for: loss, metrics, headline."""

    name: str | None = word(None, *TASKS)  # null: the task that the data have targets for
    loss: str | None = function_path(None)  # package.module:function(outputs, targets) -> losses; null: the task's own
    metrics: list[str] = listed([], ImportPath(), most=100)  # package.module:function(outputs, targets) -> values
    headline: str | None = text(None, 200)  # the metric that chooses the best epoch; null: the task's own
    better: str | None = word(None, "higher", "lower")  # which values of the headline, where it is one of task.metrics
    import_path: str | None = function_path(None)  # package.module:function(**options) -> fsamlab.task.Task
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the function at import_path, or at loss
    top5: bool = False  # classification: top-5 accuracy too, as acc5

    def __post_init__(self) -> None:
        check_fields("task.", self)
        if is_recorded():
            return
        if self.import_path is not None:
            for key in OF_A_BUILT_IN_TASK:
                if (value := getattr(self, key)) not in (None, []):
                    raise ConfigError(f"task.{key}", value, "has no effect with task.import_path; leave it out")
        elif self.options and self.loss is None:
            raise ConfigError("task.options", self.options, "has no effect without task.import_path or task.loss")
        if self.top5 and (self.import_path is not None or self.name == "regression"):
            raise ConfigError("task.top5", True, "has an effect in a classification alone; leave it false")
        self._check_metrics()

    def _check_metrics(self) -> None:
        names = [path.partition(":")[2] for path in self.metrics]
        if len(set(names)) < len(names):
            raise ConfigError("task.metrics", self.metrics, "two functions have one name, and the name is the key")
        if self.headline in names and self.better is None:
            allowed = f"must be higher or lower: {self.headline} is a metric of your own, and chooses the best epoch"
            raise ConfigError("task.better", None, allowed)
        if self.headline not in names and self.better is not None:
            allowed = "is for a task.headline out of task.metrics; leave it null: the direction of others is known"
            raise ConfigError("task.better", self.better, allowed)
