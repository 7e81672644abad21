"""The files of a run directory: config, status, environment, metrics, summary.

The directory alone is enough to rerun, resume and judge the run; W&B and SLURM only mirror it. Every
file is replaced atomically, except metrics.jsonl, which grows by whole lines and is cut back to the
checkpoint's length on resume.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from fsamlab.config import Config, to_plain
from fsamlab.environment import slurm_job_id
from fsamlab.files import CannotResume, read_json, read_json_lines, write_atomic, write_json
from fsamlab.identity import config_hash, run_id
from fsamlab.ownership import Ownership

STATUSES = ("queued", "running", "finished", "failed", "preempted", "cancelled", "lost")


def now() -> str:
    """Return the time as ISO 8601 with the zone, in seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_status(directory: Path) -> dict[str, Any]:
    """Return a run's status.json; `{"status": "queued"}` for a run that never started."""
    return read_json(directory / "status.json") or {"status": "queued"}


def is_finished(directory: Path) -> bool:
    """Return whether the run in `directory` has finished."""
    return read_status(directory)["status"] == "finished"


def read_rows(directory: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.jsonl; a half-written last line (a running or killed run) is left out.

    Raises:
        Damaged: another line is no JSON object.
    """
    try:
        return read_json_lines(directory / "metrics.jsonl")
    except FileNotFoundError:
        return []


class RunRecord:
    """The writer's side of a run directory, held by one process at a time.

    Raises:
        DirectoryBusy: another process writes into it.
    """

    def __init__(self, directory: Path, config: Config, overrides: list[str]) -> None:
        self.directory = directory
        self.config = config
        directory.mkdir(parents=True, exist_ok=True)
        self.ownership = Ownership(directory)
        self.before = read_status(directory)
        # force starts over once: a forced run that was stopped goes on when the same command is given again
        stopped = self.before.get("forced") and self.before["status"] in ("running", "preempted")
        self.starts_over = config.force and not stopped
        self._status: dict[str, Any] = {}
        self._metrics = (directory / "metrics.jsonl").open("ab")
        self.was_finished = self.before["status"] == "finished" and not config.force
        if self.was_finished:  # while this process waited for the claim: leave it as it is
            return
        plain = to_plain(config)
        write_atomic(directory / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
        write_atomic(directory / "overrides.yaml", yaml.safe_dump(overrides))
        self.set_status(
            "running",
            run_id=run_id(config),
            config_hash=config_hash(config),
            started=now(),
            attempts=self.ownership.attempt,
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job_id=slurm_job_id(),
            exception=None,
            forced=config.force,
            # not lost when this attempt ends before it has loaded its checkpoint
            **{k: self.before[k] for k in ("resumed_at", "starts_here", "warnings") if k in self.before},
        )

    def set_status(self, status: str, **fields: Any) -> None:
        """Write status.json: `status`, and whatever else changed."""
        assert status in STATUSES
        self.ownership.check()
        self._status.update(fields, status=status, updated=now())
        write_json(self.directory / "status.json", self._status)

    def append(self, row: dict[str, float]) -> None:
        """Append one row to metrics.jsonl; NaN and infinity are written as JSON's common extension."""
        self.ownership.check()
        self._metrics.write(json.dumps(row).encode() + b"\n")
        self._metrics.flush()

    def offset(self) -> int:
        """Flush metrics.jsonl to disk and return its length in bytes, to be stored in the checkpoint."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def cut(self, offset: int) -> None:
        """Drop the rows after a checkpoint; they are about to be made again."""
        length = self._metrics.seek(0, os.SEEK_END)
        if length < offset:
            raise CannotResume(
                f"{self.directory / 'metrics.jsonl'} has {length} bytes, the checkpoint knows of {offset}: "
                "it was changed from outside; restore it or start over with force=true"
            )
        self._metrics.truncate(offset)
        self._metrics.seek(0, os.SEEK_END)

    def write_env(self, env: dict[str, Any]) -> None:
        """Write env.json."""
        write_json(self.directory / "env.json", env)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        self.ownership.check()
        write_json(self.directory / "summary.json", summary)

    def close(self) -> None:
        """Close the files and let others take the directory."""
        self._metrics.close()
        self.ownership.release()
