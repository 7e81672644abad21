"""The writer's side of a run directory: config, status, environment, rows, summary.

The directory alone is enough to repeat, resume and judge a run; W&B and SLURM only mirror it. Every file is replaced
atomically, except metrics.jsonl: that file grows by whole lines and is cut back to the length that the checkpoint
stored on resume. The right to write is checked again right before each rename (ownership.py).
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
from fsamlab.rundir.rows import DAMAGED_ROWS, Mended
from fsamlab.storage.reading import CannotResume, Damaged
from fsamlab.storage.writing import naming, replacing, sync_directory, write_atomic, write_json, write_last_word

log = logging.getLogger(__name__)


def now() -> str:
    """Return the present time in UTC as ISO 8601 with the zone, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class RunRecord:
    """The writer's side of a run directory; one process holds it at a time.

    Attributes:
        directory: the run directory.
        config: the configuration of the run.
        ownership: the right to write.
        before: the content of status.json when this process came.
        starts_over: whether the results of an earlier training are deleted.
        was_finished: whether the run had finished already; then nothing is written.

    Raises:
        DirectoryBusy: another process writes into the directory.
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
            # force=true starts over once: the command line of a stopped run still has the word when SLURM requeues the
            # job or the user repeats the command, and the run must then continue.
            stopped = self.before.get("forced") and self.before["status"] in ("running", "paused", "preempted")
            # An earlier process was killed while it deleted the old results.
            unfinished = self.before.get("starting_over", False)
            self.starts_over = unfinished or (config.force and not stopped)
            self.was_finished = self.before["status"] == "finished" and not config.force
            if not self.was_finished:  # the run may have finished while this process waited for .claim
                self._start(overrides)
        except BaseException as e:
            if self._status and not isinstance(e, Superseded):
                self.end("failed", f"{type(e).__name__}: {e}".splitlines()[0])
            self.close()
            raise

    def _start(self, overrides: list[str]) -> None:
        for left in self.directory.glob(".*.tmp"):  # left by processes that were killed while they wrote
            left.unlink(missing_ok=True)
        guard = self.ownership.check
        write_atomic(self.directory / "config.yaml", yaml.safe_dump(to_plain(self.config), sort_keys=False), guard)
        write_atomic(self.directory / "overrides.yaml", yaml.safe_dump(overrides), guard)
        # keep these fields, also if this attempt ends before it has loaded its checkpoint
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
            # From the status above until the status below, every start deletes the old results, with force or without.
            # Wherever this process is killed, no half of the earlier training is taken for a part of the new training.
            self._discard()
            self.before = {"status": "running", "forced": self._status["forced"]}
            self.set_status("running", starting_over=False, life=uuid.uuid4().hex)
        self._metrics = os.open(self.directory / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _discard(self) -> None:
        """Delete the results of the earlier training. The process may be killed after any of these steps."""
        for name in ("summary.json", "metrics.jsonl", DAMAGED_ROWS, "env.json", "inputs.json"):
            (self.directory / name).unlink(missing_ok=True)
        for folder in (self.directory / name for name in ("measurements", "evaluations", "checkpoints")):
            for path in sorted(folder.rglob("*"), reverse=True):  # the content of a folder before the folder
                if path.is_dir() and not path.is_symlink():
                    with contextlib.suppress(OSError):  # on NFS a file that another process reads keeps the folder
                        path.rmdir()
                else:
                    path.unlink(missing_ok=True)
        sync_directory(self.directory)

    def set_status(self, status: str, **fields: Any) -> None:
        """Write status.json with `status` and the fields that have changed."""
        self._write_status(write_json, status, **fields)

    def end(self, status: str, exception: str) -> None:
        """Write why the run ends, also on a full disk. A failure of this write is logged and hides no other error."""
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
        """Append one row to metrics.jsonl.

        NaN and infinity are written as `NaN` and `Infinity`, the common extension of JSON.
        """
        self.ownership.check()
        assert self._metrics is not None
        # os.write, not a buffered file: a row is complete in the file or gone, and no buffer is written after a resume.
        line, length = json.dumps(row).encode() + b"\n", os.fstat(self._metrics).st_size
        left = line
        with naming(self.directory / "metrics.jsonl"):
            try:
                while left:
                    left = left[os.write(self._metrics, left) :]
            except OSError:
                os.ftruncate(self._metrics, length)  # else half a row would stand before the next row
                raise
        # A running CRC of all bytes of the file: the checkpoint stores it without reading the file again.
        self._checksum = zlib.crc32(line, self._checksum)

    def flush(self) -> dict[str, int]:
        """Flush metrics.jsonl to the disk; return its length in bytes and its CRC-32 for the checkpoint."""
        assert self._metrics is not None
        with naming(self.directory / "metrics.jsonl"):
            os.fsync(self._metrics)
        return {"metrics_bytes": os.fstat(self._metrics).st_size, "metrics_crc": self._checksum}

    def cut(self, offset: int, checksum: int | None = None) -> None:
        """Delete the rows after a checkpoint, which the run is about to make again; set damaged rows before it aside.

        metrics.jsonl becomes a new file under the same name. An older process that still has the old file open, and has
        not noticed that the directory was taken over, appends to the old file.

        Args:
            offset: length of the rows at the checkpoint, in bytes.
            checksum: CRC-32 of these rows; None in the checkpoints of an earlier version.

        Raises:
            CannotResume: the file is shorter than `offset`, or has no readable row.
        """
        path = self.directory / "metrics.jsonl"
        with path.open("rb") as old, replacing(path, self.ownership.check) as new:
            size = os.fstat(old.fileno()).st_size
            if size < offset:
                raise CannotResume(
                    f"{path} has {size} bytes, but had {offset} at the checkpoint: "
                    "another program has changed the file; restore the file or start over with force=true"
                )
            # The length in bytes, not a step, says where to cut: the length is right even where a row cannot be read.
            # The CRC then finds what parsing cannot find: a changed digit in a row that is still valid JSON.
            mended, found = Mended(old, offset), 0
            for piece in mended:
                new.write(piece)
                found = zlib.crc32(piece, found)
            if mended.damaged:
                self._set_aside(mended.damaged)
            elif checksum is not None and found != checksum:
                differs = "the checksum differs from the checksum at the checkpoint; the rows stay as they are"
                log.warning("%s: %s", path, differs)
            if offset and not mended.num_rows:
                raise CannotResume(f"{path} has no readable row; restore the file or start over with force=true")
        self._checksum = found
        assert self._metrics is not None
        os.close(self._metrics)
        self._metrics = os.open(path, os.O_WRONLY | os.O_APPEND)

    def _set_aside(self, damaged: dict[int, bytes]) -> None:
        """Append damaged lines of metrics.jsonl to a file of their own, and warn of them."""
        aside = self.directory / DAMAGED_ROWS
        with naming(aside), aside.open("ab") as f:
            f.writelines(line + b"\n" for line in damaged.values())
            f.flush()
            os.fsync(f.fileno())
        words = "%s: damaged, and moved to %s: line %s; the run continues without these rows"
        log.warning(words, self.directory / "metrics.jsonl", aside.name, ", ".join(map(str, damaged)))

    def write_env(self, env: dict[str, Any]) -> None:
        """Write env.json."""
        write_json(self.directory / "env.json", env, self.ownership.check)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.directory / "summary.json", summary, self.ownership.check)

    def close(self) -> None:
        """Close the files and allow other processes to take the directory."""
        if self._metrics is not None:
            os.close(self._metrics)
            self._metrics = None
        self.ownership.release()
