"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any


class CannotResume(RuntimeError):
    """A run's files do not allow going on from them; the message says what to do."""


class Damaged(ValueError):
    """A file does not hold what it should; the message names it, and the line."""


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


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
