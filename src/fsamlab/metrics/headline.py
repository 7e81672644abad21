"""The headline metric of a task, which measures the quality of a model: name, direction and form of its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

KEYS = {"name": "headline", "title": "title", "higher_is_better": "higher_is_better", "percent": "percent"}
AT_END, AT_BEST = "final/", "best/"  # what stands before a key in the summary


@dataclass(frozen=True)
class Headline:
    """The headline metric of a task. A run records it, so that a reader of the records does not need the task.

    The defaults are those of a classification. A run without a record of it is a classification, because earlier
    versions had no other task.

    Attributes:
        name: name of the metric without the part of the data, for example `acc1` or `mse`.
        title: the metric in words.
        higher_is_better: the direction.
        percent: whether the value is a share in 0..1 that is shown in percent.
    """

    name: str = "acc1"
    title: str = "accuracy"
    higher_is_better: bool = True
    percent: bool = True

    def record(self) -> dict[str, str | bool]:
        """Return what a run records, without the prefix `task/`; nothing for a classification."""
        return {} if self == CLASSIFICATION else {KEYS[f.name]: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, record: Mapping[Any, Any], prefix: str = "") -> Headline:
        """Return the headline of a run from its record; `prefix` stands before the keys."""
        found = {name: record.get(prefix + key) for name, key in KEYS.items()}
        if not isinstance(found["name"], str):  # absent, or NaN in a frame where other runs have a record
            return CLASSIFICATION
        return cls(found["name"], str(found["title"]), bool(found["higher_is_better"]), bool(found["percent"]))

    @property
    def at_end(self) -> str:
        """The column of the summary with the test value after the last epoch."""
        return f"{AT_END}test/{self.name}"

    @property
    def at_best(self) -> str:
        """The column of the summary with the test value at the best epoch on validation data."""
        return f"{AT_BEST}test/{self.name}"

    @property
    def chosen(self) -> str:
        """The column of the summary with the validation value that chose the best epoch."""
        return f"{AT_BEST}val/{self.name}"

    @property
    def chosen_at_end(self) -> str:
        """The column of the summary with the validation value after the last epoch, which chooses among settings."""
        return f"{AT_END}val/{self.name}"

    @property
    def words(self) -> str:
        """The title with its unit and, where lower values are better, the direction."""
        return self.title + (" in %" if self.percent else "") + ("" if self.higher_is_better else ", lower is better")

    @property
    def heading(self) -> str:
        """A word or two for the head of a narrow column, after `val` or `test`: nothing but `%` for the accuracy."""
        return "%" if self == CLASSIFICATION else self.name + (" %" if self.percent else "")


CLASSIFICATION = Headline()
