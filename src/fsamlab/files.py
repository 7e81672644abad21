"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # no room: on the disk, or in the user's quota
NO_LOCKS = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
)  # as on Lustre mounted without flock
LOCK_SECONDS = 60.0


class CannotResume(RuntimeError):
    """A run's files do not allow going on from them; the message says what to do."""


class Damaged(ValueError):
    """A file does not hold what it should; the message names it, and the line."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into an OSError that names no file, as those of write and fsync do."""
    try:
        yield
    except OSError as e:
        if e.filename is None and e.errno is not None:
            raise OSError(e.errno, os.strerror(e.errno), str(path)) from e
        raise


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(path: Path, guard: Callable[[], None] | None = None) -> Iterator[Any]:
    """Open a temporary file for the new bytes of `path`; when the block has ended well, it replaces `path` in one step.

    Args:
        path: an existing file, or a new one.
        guard: called when the bytes are on the disk, right before the rename. What it raises keeps `path` as it is: a
            process may have slept for hours while it waited for the disk.

    Raises:
        OSError: it names `path`; the temporary file is gone, with the room that it took.
    """
    # another process may be writing its own, also one with the same pid on another machine
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    try:
        with naming(path):
            with temporary.open("wb") as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            if guard is not None:
                guard()
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomic(path: Path, text: str, guard: Callable[[], None] | None = None) -> None:
    """Replace `path` by `text` in one step: temporary file, fsync, `guard()`, rename (see :func:`replacing`)."""
    with replacing(path, guard) as f:
        f.write(text.encode("utf-8", "surrogateescape"))


def overwrite(path: Path, text: str) -> None:
    """Write `text` over an existing file in place, in the blocks that the file has: for a disk with no room left."""
    with naming(path), path.open("r+b", buffering=0) as f:
        old = os.fstat(f.fileno()).st_size
        f.write(text.encode("utf-8", "surrogateescape").rstrip(b"\n").ljust(old - 1) + b"\n")
        os.fsync(f.fileno())


@contextlib.contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock file `path`, also where the file system has no flock.

    Without flock the lock is a second file, `<path>.held`, that only one process can create; what a killed process
    has left is taken for free after `seconds`. A lock is for steps of less than a second, not for a training.

    Raises:
        TimeoutError: another process has held the lock for `seconds`.
    """
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
    deadline = time.monotonic() + 2 * seconds
    me = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    while True:
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if now_at(path.parent) - path.stat().st_mtime > seconds:  # of a killed process
                    left = path.with_name(f"{path.name}.{os.getpid()}")
                    os.rename(path, left)  # one of several that wait gets it
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
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == me:
                path.unlink()


def now_at(directory: Path) -> float:
    """Return the time of the clock that dates the files in `directory`: on a network, the file server's."""
    probe = directory / f".now.{os.getpid()}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written in place, before the work that is to go into it.

    Raises:
        OSError: it is there and closed to this user, or a directory; or it is not there and its directory is not, or
            is closed.
    """
    wrong = None
    if path.is_dir():
        wrong = errno.EISDIR
    elif path.exists():
        wrong = None if os.access(path, os.W_OK) else errno.EACCES
    elif not path.parent.is_dir():
        wrong = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        wrong = errno.EACCES
    if wrong is not None:
        raise OSError(wrong, os.strerror(wrong), str(path))


def write_json(path: Path, value: Any, guard: Callable[[], None] | None = None) -> None:
    """Write `value` as indented JSON, atomically; `guard` as in :func:`replacing`."""
    write_atomic(path, json.dumps(value, indent=1) + "\n", guard)


def write_last_word(path: Path, value: Any, guard: Callable[[], None] | None = None) -> None:
    """Write `value` like :func:`write_json`; on a full disk over the present file, in place.

    For what a process has to say when it ends: that a reader might catch half of it is better than to say nothing.
    """
    try:
        write_json(path, value, guard)
    except OSError as e:
        if e.errno not in FULL or not path.exists():
            raise
        overwrite(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None where there is no such file.

    Raises:
        Damaged: it holds something else.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as e:
        raise Damaged(f"{path} is no JSON object: {e}") from e


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in `path`, one a line; a last line without its end, half-written, is left out.

    Raises:
        Damaged: another line is no JSON object.
    """
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError) as e:
            raise Damaged(f"{path}, line {number}: no JSON object: {line[:60].decode(errors='replace')!r}") from e
    return found
