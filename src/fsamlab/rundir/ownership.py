"""One run, one writer: which process may write into a run directory.

`owner.json` names the process that writes; the modification time of the file is the heartbeat. A second process is
refused while the heartbeat is fresh. The second process takes over when the first is known to be dead (the process does
not exist, and both see the same processes), is an earlier start of the same SLURM job, or has been silent for
STALE_SECONDS. The older process reads owner.json before it writes, and again right before each rename, and stops when
the file names another process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import uuid
from functools import cache
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
    """A newer attempt has taken over the run directory; this process must not write any more."""


OWNER = {  # of owner.json
    **{"token": str, "directory": str, "attempt": int, "host": str, "pid": int, "pid_start": str | None},
    **{"slurm_job_id": str | None, "slurm_restart": int, "released": bool},
}


def process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process, in clock ticks since boot; None where the process does not exist.

    The kernel reuses pids; pid and start time together name one process.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else fields[19]  # state, starttime (proc(5))


def pid_scope() -> dict[str, str | None]:
    """Return where a pid has a meaning: on this host, since this boot, in this PID namespace (a container has its own).

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
    """Return why `owner` must be taken for alive; None when its directory may be taken over.

    Args:
        owner: the content of owner.json; a file of an earlier version names only the host.
        heartbeat_age: in seconds. A heartbeat from the future (a clock was set back) counts by its distance from now.
    """
    # Inside a restart of the same SLURM job the earlier start is dead or dying, even if a node that was cut off still
    # refreshes the heartbeat: SLURM starts a job again only after it has given the earlier start up.
    job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if job is not None and owner.get("slurm_job_id") == job and restart > int(str(owner.get("slurm_restart", 0))):
        return None
    # Where owner and this process see the same processes, the process table decides and the heartbeat is not asked: a
    # killed run resumes at once, and a suspended run (Ctrl-Z) keeps its directory however old its heartbeat is.
    here = pid_scope()
    if Path("/proc/self/stat").exists() and all(owner.get(key, here[key]) == here[key] for key in here):
        start = process_start(int(str(owner["pid"])))
        return f"process {owner['pid']} on this machine" if start == owner["pid_start"] else None
    # Another machine: only the heartbeat tells. 60 s against a beat every 10 s leave room for a slow file server.
    if abs(heartbeat_age) < STALE_SECONDS:
        return f"process {owner['pid']} on {owner['host']}, last heartbeat {abs(heartbeat_age):.0f} s ago"
    return None


def read_owner(directory: Path) -> dict[str, Any] | None:
    """Return the content of owner.json; None where there is no such file.

    Of a damaged file only the heartbeat counts.
    """
    path = directory / "owner.json"
    try:
        owner = read_json(path, OWNER, ("attempt", "host", "pid", "pid_start"))
        return {**owner, "released": True} if owner is not None and _came_with_a_copy(owner, directory) else owner
    except Damaged as e:
        _warn(f"{e}; only the time of the file tells whether another process writes there")
    return {"host": "a machine that the damaged owner.json does not name", "pid": "?", "boot_id": "?", "attempt": 1}


@cache  # `fsamlab status --watch` looks at the same file every few seconds
def _warn(message: str) -> None:
    log.warning(message)


def _came_with_a_copy(owner: dict[str, Any], directory: Path) -> bool:
    """Return whether owner.json was copied here together with its directory: its process writes into the original."""
    try:
        return "directory" in owner and not Path(owner["directory"]).samefile(directory)
    except OSError:  # the original was moved, or this machine sees it under another path
        return False


class Ownership:
    """The right to write into one run directory. A thread renews the heartbeat.

    Attributes:
        path: owner.json in the directory.
        token: random, names this attempt in owner.json.
        attempt: 1 for the first process of a run, one more for each later process.

    Raises:
        DirectoryBusy: another process writes into the directory.
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
                # Without this lock two launches in the same second both find no owner, and both write their names.
                stack.enter_context(locked(directory / ".claim"))
            except TimeoutError as e:
                raise DirectoryBusy(f"{directory}: another process has held .claim for long; stop that process") from e
            owner = read_owner(directory)
            if owner is not None and not owner.get("released"):
                # Both by the file server's clock, whatever this machine's clock says.
                age = now_at(directory) - self.path.stat().st_mtime
                reason = why_alive(owner, age)
                if reason is not None:
                    raise DirectoryBusy(
                        f"{directory}: already being written by {reason}; wait for that process or stop it"
                    )
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
        """Return whether this process is still the writer."""
        return (read_json(self.path) or {}).get("token") == self.token

    def check(self) -> None:
        """Raise :class:`Superseded` when a newer attempt has taken over."""
        if not self.holds():
            raise Superseded(f"{self.path.parent}: taken over by a newer attempt; this one stops writing")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # A short failure of the file server must not end the heartbeat.
            with contextlib.suppress(OSError, ValueError):
                if not self.holds():
                    return
                os.utime(self.path)

    def release(self) -> None:
        """Stop the heartbeat and allow other processes to take the directory at once."""
        self._stop.set()
        self._thread.join()
        try:
            if self.holds():
                write_last_word(self.path, {**self._entry(self.attempt), "released": True}, self.check)
        except Superseded:
            pass
        except (
            OSError,
            Damaged,
        ) as e:  # raise nothing: the error that ended the run is more important, and the heartbeat will be stale soon
            log.warning("%s could not be released for other processes: %s", self.path.parent, e)
