"""Where rows go besides the run's own metrics.jsonl, which is the ground truth.

A tracker mirrors. None of its failures may stop, slow down or hang training, or lose a local row.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Protocol

from fsamlab.config import TrackerConfig

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """A mirror of one run's rows.

    Attributes:
        url: where to look at them; None when nothing is mirrored.
    """

    url: str | None

    def log(self, row: dict[str, float], step: int) -> None:
        """Mirror one row."""

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """Mirror the summary and end the run there; may be called again."""


class NullTracker:
    """Mirrors nothing, so that no caller has to ask."""

    url: str | None = None

    def log(self, row: dict[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """Do nothing."""


def build_tracker(
    cfg: TrackerConfig,
    *,
    run_id: str,
    name: str,
    group: str,
    job_type: str,
    config: dict[str, Any],
    directory: Path,
    start_step: int,
) -> Tracker:
    """Return the tracker that `cfg` asks for; one that cannot work is a warning and a :class:`NullTracker`.

    Args:
        run_id: stable over restarts of the run.
        group: the sweep, `job_type`: the method.
        config: plain nested dictionaries.
        directory: common to the runs of a sweep; W&B keeps its files in `directory/wandb`.
        start_step: the step training resumes from; rows up to it have been sent before.
    """
    mode = cfg.mode
    if mode == "auto" and os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        mode = os.environ["WANDB_MODE"]
    if cfg.name == "none" or mode == "disabled":
        return NullTracker()
    from fsamlab.tracking import wandb_tracker

    if mode == "auto":
        reason = wandb_tracker.why_not_online(cfg.init_timeout)
        if reason is not None:
            log.info("W&B is not used (%s); the run's own files have everything", reason)
            return NullTracker()
        mode = "online"
    tracker = wandb_tracker.WandbTracker(cfg, run_id, directory, start_step)
    tracker.start(mode, name=name, group=group, job_type=job_type, config=config)
    return tracker
