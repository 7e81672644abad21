"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # no room: on the disk, or in the user's quota


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
