"""Writing files so that a reader never sees half of a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # the disk, or the user's quota, is full


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file. The errors of write and fsync name none."""
    try:
        yield
    except OSError as e:
        if e.filename is None and e.errno is not None:
            raise OSError(e.errno, os.strerror(e.errno), str(path)) from e
        raise


def sync_directory(directory: Path) -> None:
    """Make the renames inside `directory` durable: after a power cut they are still there."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(path: Path, guard: Callable[[], None] | None = None) -> Iterator[Any]:
    """Open a temporary file that replaces `path` in one step when the block ends without an error.

    Args:
        path: a new or an existing file.
        guard: called after the content is on the disk, right before the rename. If `guard` raises, `path` stays as it
            is. The call comes so late because the process may have slept for hours while it waited for the disk.

    Raises:
        OSError: names `path`. The temporary file is deleted, which frees its space.
    """
    # The name is random, because another process may write the same file now, and on a shared file system a process of
    # another machine may have the same pid.
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
    """Replace the content of `path` by `text` in one step; `guard` as in :func:`replacing`."""
    with replacing(path, guard) as f:
        f.write(text.encode("utf-8", "surrogateescape"))


def overwrite(path: Path, text: str) -> None:
    """Write `text` over an existing file in place, in the blocks that the file already has: for a full disk."""
    with naming(path), path.open("r+b", buffering=0) as f:
        # Padded to the old length, so that no tail of the old text follows the new text, in one write: no truncation
        # comes first, because a process that dies after a truncation leaves an empty file.
        old = os.fstat(f.fileno()).st_size
        f.write(text.encode("utf-8", "surrogateescape").rstrip(b"\n").ljust(old - 1) + b"\n")
        os.fsync(f.fileno())


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written in place, before the work whose result goes into the file.

    Raises:
        OSError: the path is a directory, or a file that this user may not write; or the file does not exist, and its
            directory does not exist or does not allow new files.
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
    """Write `value` as :func:`write_json` does; on a full disk, write over the present file in place.

    This is for the last message of a process that ends: a reader that catches half of the file is better than no
    message.
    """
    try:
        write_json(path, value, guard)
    except OSError as e:
        if e.errno not in FULL or not path.exists():
            raise
        overwrite(path, json.dumps(value, indent=1) + "\n")
