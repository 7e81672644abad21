"""One run, one writer: who may write into a run directory.

`owner.json` names the process that writes; its modification time is the heartbeat. A second process
is refused while the heartbeat is fresh, and takes over when the first is known to be dead (same host,
no such process), is the same SLURM job's earlier start, or has been silent for long. The older
process reads the file before it writes and stops when the file names another.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from fsamlab.files import read_json, write_json

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


class DirectoryBusy(RuntimeError):
    """Another process writes into this run directory."""


class Superseded(RuntimeError):
    """A newer attempt has taken the run directory over; this one must not write any more."""


def process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process (tells a reused pid), None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else fields[19]  # state, starttime (proc(5))


def why_alive(owner: dict[str, object], heartbeat_age: float) -> str | None:
    """Return why `owner` must be taken for alive, None when its directory may be taken over."""
    job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if job is not None and owner.get("slurm_job_id") == job and restart > int(str(owner.get("slurm_restart", 0))):
        return None  # a restart of the same job: SLURM started this process, so the earlier one is to end
    if owner["host"] == socket.gethostname() and Path("/proc/self/stat").exists():
        start = process_start(int(str(owner["pid"])))
        return f"process {owner['pid']} on this machine" if start == owner["pid_start"] else None
    if heartbeat_age < STALE_SECONDS:
        return f"process {owner['pid']} on {owner['host']}, last heard of {heartbeat_age:.0f} s ago"
    return None


class Ownership:
    """The right to write into one run directory, with a heartbeat thread.

    Attributes:
        attempt: 1 for a run's first process, one more for each that follows.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "owner.json"
        self.token = uuid.uuid4().hex
        self.attempt = self._claim(directory)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _claim(self, directory: Path) -> int:
        with (directory / ".claim").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two launches in the same second
            owner = read_json(self.path)
            if owner is not None and not owner.get("released"):
                age = time.time() - self.path.stat().st_mtime
                reason = why_alive(owner, age)
                if reason is not None:
                    raise DirectoryBusy(f"{directory}: already being written by {reason}; wait for it or stop it")
            attempt = int(owner["attempt"]) + 1 if owner else 1
            write_json(self.path, self._entry(attempt))
        return attempt

    def _entry(self, attempt: int) -> dict[str, object]:
        return {
            "token": self.token,
            "attempt": attempt,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_start": process_start(os.getpid()),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
            "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        }

    def holds(self) -> bool:
        """Return whether this process still is the writer."""
        try:
            return bool(json.loads(self.path.read_text(encoding="utf-8"))["token"] == self.token)
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Raise :class:`Superseded` when a newer attempt has taken over."""
        if not self.holds():
            raise Superseded(f"{self.path.parent}: taken over by a newer attempt; this one stops writing")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # a file server that hiccups must not end the heartbeat
                if not self.holds():
                    return
                os.utime(self.path)

    def release(self) -> None:
        """Stop the heartbeat and let others take the directory at once."""
        self._stop.set()
        self._thread.join()
        if self.holds():
            write_json(self.path, {**self._entry(self.attempt), "released": True})
