"""One job of a sweep as the job was at submission: the configuration and the directory that the job gets.

A job may wait in a queue for days. The job therefore gets its composed configuration and its directory, and does not
compose again: an edit of conf/ or sweeps/ changes new launches only. Code cannot be frozen in this way; a digest of the
code is, and the job compares the digest with the code that it runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAIN = "fsamlab.run:run_frozen"
MEASURE = "fsamlab.command.measure:measure_frozen"
EVALUATE = "fsamlab.command.evaluate:evaluate_frozen"


@dataclass(frozen=True)
class FrozenJob:
    """What one job runs.

    Attributes:
        task: `module:function`; the function is called with this object.
        config: the configuration in plain types, as config.yaml holds it.
        overrides: the words that the configuration was composed from, for the record.
        directory: where the job writes, absolute.
        code: :func:`fsamlab.rundir.environment.code_version` at submission.
        until: the epoch after which a job that trains pauses its run; None means the end of the training.
    """

    task: str
    config: dict[str, Any]
    overrides: list[str]
    directory: Path
    code: dict[str, Any]
    until: int | None = None

    @property
    def trains(self) -> bool:
        """Whether the job trains the run of its directory; a job that measures or evaluates writes below."""
        return self.task == TRAIN


def all_train(jobs: Iterable[FrozenJob]) -> bool:
    """Return whether every job trains a run."""
    return all(job.trains for job in jobs)
