"""One run, one writer: who may write into a run directory.

`owner.json` names the process that writes; its modification time is the heartbeat. A second process
is refused while the heartbeat is fresh, and takes over when the first is known to be dead (no such process,
where both count processes alike), is the same SLURM job's earlier start, or has been silent for long. The older
process reads owner.json before it writes, and again before each rename, and stops when the file names another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

from fsamlab.storage.locks import locked, now_at
from fsamlab.storage.reading import Damaged, read_json
from fsamlab.storage.writing import write_json, write_last_word

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


class DirectoryBusy(RuntimeError):
    """Another process writes into this run directory."""


class Superseded(RuntimeError):
    """A newer attempt has taken the run directory over; this one must not write any more."""


OWNER = {  # of owner.json
    **{"token": str, "directory": str, "attempt": int, "host": str, "pid": int, "pid_start": str | None},
    **{"slurm_job_id": str | None, "slurm_restart": int, "released": bool},
}


def process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process (tells a reused pid), None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else fields[19]  # state, starttime (proc(5))


def pid_scope() -> dict[str, str | None]:
    """Return where a pid means something: this host, since this boot, in this PID namespace (a container has its own).

    `boot_id` and `pid_namespace` are None where the kernel does not tell.
    """
    try:
        boot, namespace = (
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
            os.readlink("/proc/self/ns/pid"),
        )
    except OSError:
        boot, namespace = None, None
    return {"host": socket.gethostname(), "boot_id": boot, "pid_namespace": namespace}


def why_alive(owner: dict[str, object], heartbeat_age: float) -> str | None:
    """Return why `owner` must be taken for alive, None when its directory may be taken over.

    Args:
        owner: what owner.json holds; a file of an earlier version names the host alone.
        heartbeat_age: in seconds. A heartbeat from the future (a clock was set back) is as old as it is ahead.
    """
    job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if job is not None and owner.get("slurm_job_id") == job and restart > int(str(owner.get("slurm_restart", 0))):
        return None  # a restart of the same job: SLURM started this process, so the earlier one is to end
    here = pid_scope()
    if Path("/proc/self/stat").exists() and all(owner.get(key, here[key]) == here[key] for key in here):
        start = process_start(int(str(owner["pid"])))
        return f"process {owner['pid']} on this machine" if start == owner["pid_start"] else None
    if abs(heartbeat_age) < STALE_SECONDS:
        return f"process {owner['pid']} on {owner['host']}, last heard of {abs(heartbeat_age):.0f} s ago"
    return None


def read_owner(directory: Path) -> dict[str, Any] | None:
    """Return what owner.json says, None where there is none; of a damaged one, only its heartbeat counts."""
    path = directory / "owner.json"
    try:
        owner = read_json(path, OWNER, ("attempt", "host", "pid", "pid_start"))
        return {**owner, "released": True} if owner is not None and _came_with_a_copy(owner, directory) else owner
    except Damaged as e:
        log.warning("%s: whether another process writes there is judged by the file's time alone", e)
    return {"host": "a machine that the damaged owner.json does not name", "pid": "?", "boot_id": "?", "attempt": 1}


def _came_with_a_copy(owner: dict[str, Any], directory: Path) -> bool:
    """Return whether owner.json was copied here with its directory: the process it names writes into the original."""
    try:
        return "directory" in owner and not Path(owner["directory"]).samefile(directory)
    except OSError:  # moved, or seen under another path from here
        return False


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
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(directory / ".claim"))  # two launches in the same second
            except TimeoutError as e:
                raise DirectoryBusy(f"{directory}: another process has held .claim for long; stop it") from e
            owner = read_owner(directory)
            if owner is not None and not owner.get("released"):
                age = now_at(directory) - self.path.stat().st_mtime  # by one clock, whatever this machine's says
                reason = why_alive(owner, age)
                if reason is not None:
                    raise DirectoryBusy(f"{directory}: already being written by {reason}; wait for it or stop it")
            attempt = int(owner["attempt"]) + 1 if owner else 1
            write_json(self.path, self._entry(attempt))
        return attempt

    def _entry(self, attempt: int) -> dict[str, Any]:
        return {
            "token": self.token,
            "directory": str(self.path.parent.resolve()),
            "attempt": attempt,
            **pid_scope(),
            "pid": os.getpid(),
            "pid_start": process_start(os.getpid()),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
            "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        }

    def holds(self) -> bool:
        """Return whether this process still is the writer."""
        return (read_json(self.path) or {}).get("token") == self.token

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
        try:
            if self.holds():
                write_last_word(self.path, {**self._entry(self.attempt), "released": True}, self.check)
        except Superseded:
            pass
        except (OSError, Damaged) as e:  # others wait until the heartbeat is stale; what ended the run is the news
            log.warning("%s could not be released: %s", self.path.parent, e)
