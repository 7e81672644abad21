"""Trackers mirror the rows of a run; the run's own metrics.jsonl remains the record.

No failure of a tracker may stop, slow down or hang training, or lose a local row.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

from fsamlab.config import TrackerConfig

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """A mirror of the rows of one run.

    Attributes:
        url: the page that shows the rows; None if nothing is mirrored.
    """

    url: str | None

    def log(self, row: dict[str, float], step: int) -> None:
        """Mirror one row."""

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """Mirror the summary and end the mirrored run. Calling it again does nothing."""


class NullTracker:
    """Mirrors nothing, so that callers need no check for None."""

    url: str | None = None

    def log(self, row: dict[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """Do nothing."""


def wandb_arguments(config: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Return the arguments of :func:`build_tracker` that say what the W&B run is: id, name, group, job type, config.

    Args:
        config: plain nested dictionaries, as in config.yaml.
        run_id: the name of the run's directory, which follows from its configuration.
    """
    return {
        "run_id": f"{config['name']}-{run_id}",
        "name": run_id,
        "group": config["name"],
        "job_type": config["optimizer"]["name"],
        "config": config,
    }


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
    metrics: Path | None = None,
) -> Tracker:
    """Return the tracker that `cfg` asks for. If that tracker cannot work, warn and return one that mirrors nothing.

    Args:
        cfg: the config of the tracker.
        run_id: id of the run, the same after a restart.
        name: name that W&B shows for the run.
        group: name of the sweep.
        job_type: name of the method.
        config: plain nested dictionaries.
        directory: the same directory for all runs of a sweep; W&B keeps its files in `directory/wandb`.
        start_step: the step from which training resumes.
        metrics: the run's metrics.jsonl, cut to `start_step`. Rows that an earlier, killed attempt could not send are
            read from this file.
    """
    mode = _mode(cfg)
    if mode == "disabled":
        return NullTracker()
    try:
        from fsamlab.tracking.wandb_tracker import WandbTracker

        tracker = WandbTracker(cfg, mode, start_step, metrics)
        tracker.start(run_id=run_id, name=name, group=group, job_type=job_type, config=config, directory=directory)
        return tracker
    except Exception as e:  # for example no new thread, or a broken installation; training goes on
        log.warning("%s", not_used(e))
        return NullTracker()


def _mode(cfg: TrackerConfig) -> str:
    """Return the mode of this run: online, offline or disabled."""
    if cfg.name == "none" or cfg.mode in ("disabled", "offline"):
        return "disabled" if cfg.name == "none" else cfg.mode
    try:
        from fsamlab.tracking.wandb_environment import PROBE_SECONDS, probe, read_environment
        from fsamlab.tracking.wandb_tracker import GRACE_SECONDS
        from fsamlab.tracking.worker import within

        environment = within(cfg.init_timeout + GRACE_SECONDS, read_environment, "import of wandb")
        mode = environment.mode if cfg.mode == "auto" and environment.mode is not None else cfg.mode
        if mode in ("disabled", "offline"):
            return mode
        if not environment.has_key:
            raise OSError(environment.no_key)
        if mode == "auto":
            probe(environment, min(PROBE_SECONDS, cfg.init_timeout))
        return "online"
    except Exception as e:  # an unusual home, settings file or address can raise almost anything
        log.log(logging.WARNING if cfg.mode == "online" else logging.INFO, "%s", not_used(e))
        return "disabled"


def not_used(why: Exception) -> str:
    """Return the line that says why W&B is not used."""
    said = " ".join(str(why).split()) or type(why).__name__
    return f"W&B is not used ({said}); the run's own files hold everything, and `fsamlab sync` uploads them later"
