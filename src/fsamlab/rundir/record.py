"""The files of a run directory: config, status, environment, metrics, summary.

The directory alone is enough to rerun, resume and judge the run; W&B and SLURM only mirror it. Every
file is replaced atomically, except metrics.jsonl, which grows by whole lines and is cut back to the
checkpoint's length on resume. Who may write is asked again right before each rename (ownership.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import uuid
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from fsamlab.config import Config, to_plain
from fsamlab.config.identity import config_hash, run_id
from fsamlab.rundir.environment import slurm_job_id
from fsamlab.rundir.ownership import Ownership, Superseded
from fsamlab.rundir.reading import STATUSES, read_status
from fsamlab.rundir.rows import DAMAGED_ROWS, mend_rows
from fsamlab.storage.reading import CannotResume, Damaged
from fsamlab.storage.writing import naming, replacing, sync_directory, write_atomic, write_json, write_last_word

log = logging.getLogger(__name__)


def now() -> str:
    """Return the time as ISO 8601 with the zone, in seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


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
        self._metrics: int | None = None
        self._checksum = 0
        self._status: dict[str, Any] = {}
        try:
            self.before = read_status(directory)
            # force starts over once: a forced run that was stopped goes on when the same command is given again
            stopped = self.before.get("forced") and self.before["status"] in ("running", "preempted")
            unfinished = self.before.get("starting_over", False)  # killed while it deleted what was there
            self.starts_over = unfinished or (config.force and not stopped)
            self.was_finished = self.before["status"] == "finished" and not config.force
            if not self.was_finished:  # it may have finished while this process waited for the claim
                self._start(overrides)
        except BaseException as e:
            if self._status and not isinstance(e, Superseded):
                self.end("failed", f"{type(e).__name__}: {e}".splitlines()[0])
            self.close()
            raise

    def _start(self, overrides: list[str]) -> None:
        for left in self.directory.glob(".*.tmp"):  # of processes that were killed while they wrote
            left.unlink(missing_ok=True)
        guard = self.ownership.check
        write_atomic(self.directory / "config.yaml", yaml.safe_dump(to_plain(self.config), sort_keys=False), guard)
        write_atomic(self.directory / "overrides.yaml", yaml.safe_dump(overrides), guard)
        # not lost when this attempt ends before it has loaded its checkpoint
        kept = () if self.starts_over else ("resumed_at", "starts_here", "warnings", "life")
        self.set_status(
            "running",
            run_id=run_id(self.config),
            config_hash=config_hash(self.config),
            started=now(),
            attempts=self.ownership.attempt,
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job_id=slurm_job_id(),
            slurm_cluster=os.environ.get("SLURM_CLUSTER_NAME"),
            exception=None,
            forced=self.config.force or bool(self.starts_over and self.before.get("forced")),
            starting_over=self.starts_over,
            **{k: self.before[k] for k in kept if k in self.before},
        )
        if self.starts_over:
            # From the status above on, every start deletes what is left here, with force or without, until the status
            # below is written: wherever this process is killed, no half of the earlier life is taken for the new one.
            self._discard()
            self.before = {"status": "running", "forced": self._status["forced"]}
            self.set_status("running", starting_over=False, life=uuid.uuid4().hex)
        self._metrics = os.open(self.directory / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _discard(self) -> None:
        """Delete the results of an earlier life: each step may be the last one before a kill."""
        for name in ("summary.json", "metrics.jsonl", DAMAGED_ROWS, "env.json", "inputs.json"):
            (self.directory / name).unlink(missing_ok=True)
        for folder in (self.directory / "measurements", self.directory / "checkpoints"):
            for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder before the folder
                if path.is_dir() and not path.is_symlink():
                    with contextlib.suppress(OSError):  # a file that another process reads may hold it, as on NFS
                        path.rmdir()
                else:
                    path.unlink(missing_ok=True)
        sync_directory(self.directory)

    def set_status(self, status: str, **fields: Any) -> None:
        """Write status.json: `status`, and whatever else changed."""
        self._write_status(write_json, status, **fields)

    def end(self, status: str, exception: str) -> None:
        """Write why the run ends, also on a full disk; that this fails hides no other error."""
        try:
            self._write_status(write_last_word, status, exception=exception)
        except Superseded:
            pass
        except (OSError, Damaged) as e:
            log.error("%s: status.json could not be written: %s", self.directory, e)

    def _write_status(self, write: Callable[..., None], status: str, **fields: Any) -> None:
        assert status in STATUSES
        self.ownership.check()
        self._status.update(fields, status=status, updated=now())
        write(self.directory / "status.json", self._status, self.ownership.check)

    def append(self, row: dict[str, float]) -> None:
        """Append one row to metrics.jsonl; NaN and infinity are written as JSON's common extension."""
        self.ownership.check()
        assert self._metrics is not None
        line, length = json.dumps(row).encode() + b"\n", os.fstat(self._metrics).st_size
        left = line
        with naming(self.directory / "metrics.jsonl"):
            try:
                while left:
                    left = left[os.write(self._metrics, left) :]
            except OSError:
                os.ftruncate(self._metrics, length)  # half a row would stand before the next one
                raise
        self._checksum = zlib.crc32(line, self._checksum)

    def flush(self) -> dict[str, int]:
        """Flush metrics.jsonl to disk and return its length in bytes and its CRC, to be stored in the checkpoint."""
        assert self._metrics is not None
        with naming(self.directory / "metrics.jsonl"):
            os.fsync(self._metrics)
        return {"metrics_bytes": os.fstat(self._metrics).st_size, "metrics_crc": self._checksum}

    def cut(self, offset: int, checksum: int | None = None) -> None:
        """Drop the rows after a checkpoint, which are about to be made again; set damaged ones before it aside.

        metrics.jsonl becomes another file under the same name: an older process that still has the old one open, and
        has not noticed yet that it was taken over, appends to the old one.

        Raises:
            CannotResume: there are fewer rows than the checkpoint knows of, or none that can be read.
        """
        path = self.directory / "metrics.jsonl"
        content = path.read_bytes()
        if len(content) < offset:
            raise CannotResume(
                f"{path} has {len(content)} bytes, the checkpoint knows of {offset}: "
                "it was changed from outside; restore it or start over with force=true"
            )
        mended, damaged = mend_rows(content[:offset])
        if damaged:
            aside = self.directory / DAMAGED_ROWS
            with naming(aside), aside.open("ab") as f:
                f.writelines(line + b"\n" for line in damaged.values())
                f.flush()
                os.fsync(f.fileno())
            numbers = ", ".join(map(str, damaged))
            log.warning("%s: damaged, and set aside in %s: line %s; the run goes on without", path, aside.name, numbers)
        elif checksum is not None and zlib.crc32(mended) != checksum:
            log.warning("%s: another file than at the checkpoint (its checksum says); its rows stay as they are", path)
        if offset and not mended.strip():
            raise CannotResume(f"{path} has no row that can be read; restore it or start over with force=true")
        with replacing(path, self.ownership.check) as f:
            f.write(mended)
        self._checksum = zlib.crc32(mended)
        assert self._metrics is not None
        os.close(self._metrics)
        self._metrics = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write_env(self, env: dict[str, Any]) -> None:
        """Write env.json."""
        write_json(self.directory / "env.json", env, self.ownership.check)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.directory / "summary.json", summary, self.ownership.check)

    def close(self) -> None:
        """Close the files and let others take the directory."""
        if self._metrics is not None:
            os.close(self._metrics)
            self._metrics = None
        self.ownership.release()
