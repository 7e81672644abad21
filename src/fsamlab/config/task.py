"""The schema of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fsamlab.checks import ConfigError, check_fields, function_path, is_recorded, word

TASKS = ("classification", "regression")  # those of fsamlab.task


@dataclass
class TaskConfig:
    """What the model is trained for: loss, metrics, headline."""

    name: str | None = word(None, *TASKS)  # null: the task that the data have targets for
    import_path: str | None = function_path(None)  # package.module:function(options) -> fsamlab.task.Task
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the function at import_path
    top5: bool = False  # classification: top-5 accuracy too, as acc5

    def __post_init__(self) -> None:
        check_fields("task.", self)
        if is_recorded():
            return
        if self.import_path is not None and self.name is not None:
            raise ConfigError("task.name", self.name, "has no effect with task.import_path; leave it null")
        if self.options and self.import_path is None:
            raise ConfigError("task.options", self.options, "has no effect without task.import_path; leave it empty")
        if self.top5 and (self.import_path is not None or self.name == "regression"):
            raise ConfigError("task.top5", True, "has an effect in a classification alone; leave it false")
