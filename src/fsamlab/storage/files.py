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
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is several times faster
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # no room: on the disk, or in the user's quota
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})  # as on Lustre mounted without flock
LOCK_SECONDS = 60.0


class CannotResume(RuntimeError):
    """A run's files do not allow going on from them; the message says what to do."""


class Damaged(ValueError):
    """A file does not hold what it should, or cannot be read; the message names the file, the line, and what helps."""


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
def locked(path: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock file `path`, also where the file system has no flock.

    Without flock the lock is a second file, `<path>.held`, that only one process can create; what a killed process
    has left is taken for free after `seconds`. A lock is for steps of less than a second, not for a training.

    Args:
        seconds: how long to wait, None is `LOCK_SECONDS`.

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


def read_bytes(path: Path, mend: str = "") -> bytes | None:
    """Return what a file holds, None where there is no such file.

    Args:
        path: the file.
        mend: what helps when the file is damaged, for the message.

    Raises:
        Damaged: it is there and cannot be read, as a directory in its place cannot.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except NotADirectoryError as e:
        file = next(parent for parent in path.parents if parent.exists())
        raise damaged(file, "is a file, and should be a directory", "move it away") from e
    except OSError as e:
        raise damaged(path, f"cannot be read: {e.strerror}", mend) from e


def damaged(path: Path, why: str, mend: str = "") -> Damaged:
    """Return the error of a file: which file, what is wrong with the file, what helps."""
    return Damaged(f"{path} {why}{f'; {mend}' if mend else ''}")


def read_json(
    path: Path, shape: Mapping[str, Any] | None = None, required: Collection[str] = (), mend: str = ""
) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None where there is no such file.

    Args:
        path: the file.
        shape: key -> kind of its value, see :func:`fits`; other keys may be there too.
        required: keys that have to be there.
        mend: what helps when the file is damaged, for the message.

    Raises:
        Damaged: it holds something else.
    """
    content = read_bytes(path, mend)
    if content is None:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise damaged(path, f"is no JSON object: {e}", mend) from e
    if not isinstance(value, dict):
        raise damaged(path, f"is no JSON object: {type(value).__name__} in place of keys", mend)
    wrong = misfit(value, shape or {}, required)
    if wrong is not None:
        raise damaged(path, f"is damaged: {wrong}", mend)
    return value


def read_yaml(path: Path, mend: str = "") -> Any:
    """Return what the YAML in `path` holds, None where there is no such file.

    Raises:
        Damaged: it is no YAML.
    """
    content = read_bytes(path, mend)
    try:
        return None if content is None else yaml.load(content, Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        text = " ".join(str(e).split())
        raise damaged(path, f"is no YAML: {type(e).__name__}: {text}", mend) from e


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of a kind: a type or union, `[kind]` for a list, `{str: kind}` for a dictionary."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(v, kind[0]) for v in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(fits(v, kind[str]) for v in value.values())
    return isinstance(value, kind)


def misfit(value: Mapping[str, Any], shape: Mapping[str, Any], required: Collection[str] = ()) -> str | None:
    """Return in one line what of an object does not have its shape, None where all has."""
    missing = [key for key in required if key not in value]
    if missing:
        return f"{missing[0]} is missing"
    wrong = [key for key, kind in shape.items() if key in value and not fits(value[key], kind)]
    return f"{wrong[0]} is {str(value[wrong[0]])[:60]!r}" if wrong else None


def read_json_lines(path: Path, required: Mapping[str, Any] | None = None, mend: str = "") -> list[dict[str, Any]]:
    """Return the JSON objects in `path`, one a line; a last line without its end, half-written, is left out.

    Args:
        path: the file; empty where there is none.
        required: key -> kind of its value, in every line.
        mend: what helps when the file is damaged, for the message.

    Raises:
        Damaged: another line is no JSON object, or one without the keys.
    """
    whole, _, _ = (read_bytes(path, mend) or b"").rpartition(b"\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            wrong: str | None = f"no JSON object: {line[:60].decode(errors='replace')!r}"
        else:
            wrong = misfit(row, required or {}, required or ())
        if wrong is not None:
            raise Damaged(f"{path}, line {number}: {wrong}{f'; {mend}' if mend else ''}")
        found.append(row)
    return found
