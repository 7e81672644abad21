"""Locks between processes, with and without flock in the file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})  # as on Lustre mounted without flock
LOCK_SECONDS = 60.0


@contextlib.contextmanager
def locked(path: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock file `path`; works on file systems without flock too.

    Without flock, the lock is a second file, `<path>.held`, which only one process can create. If a process is killed
    while it holds the lock, another process takes the lock after `seconds`. Hold a lock for less than a second, never
    for a training.

    Args:
        path: the lock file; the file stays after the lock is released.
        seconds: how long to wait for the lock; None means `LOCK_SECONDS`.

    Raises:
        TimeoutError: another process has held the lock for `seconds`.
    """
    seconds = LOCK_SECONDS if seconds is None else seconds
    with path.open("w", encoding="utf-8") as f:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the file is closed, also by a crash
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "another process holds this lock", str(path)) from None
                time.sleep(0.02)
            except OSError as e:
                if e.errno not in NO_LOCKS:
                    raise OSError(e.errno, e.strerror, str(path)) from e
                with _held(path.with_name(f"{path.name}.held"), seconds):
                    yield
                return
        yield


@contextlib.contextmanager
def _held(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock by a file that only one process can create."""
    # Longer than the age at which a left lock may be taken: a process that waits sees a killed holder's lock expire.
    deadline = time.monotonic() + 2 * seconds
    me = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    while True:
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                # Both times come from the clock of the file server: the clocks of two machines may differ by minutes.
                if now_at(path.parent) - path.stat().st_mtime > seconds:  # its holder was killed
                    left = path.with_name(f"{path.name}.{os.getpid()}")
                    os.rename(path, left)  # succeeds for one of the waiting processes only; an unlink would not
                    left.unlink()
                    continue
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds this lock", str(path)) from None
            time.sleep(0.02)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(me)
        yield
    finally:
        # A process that was suspended for long may come back when its lock has been taken: that lock is not its own.
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == me:
                path.unlink()


def now_at(directory: Path) -> float:
    """Return the time, in seconds since 1970, of the clock that dates the files in `directory`.

    On a network that is the clock of the file server.
    """
    probe = directory / f".now.{os.getpid()}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
