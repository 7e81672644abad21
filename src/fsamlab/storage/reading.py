"""Reading files with the types of what they hold checked; a damaged file is one line that names it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is several times faster


class CannotResume(RuntimeError):
    """A run's files do not allow going on from them; the message says what to do."""


class Damaged(ValueError):
    """A file does not hold what it should, or cannot be read; the message names the file, the line, and what helps."""


def damaged(path: Path, why: str, mend: str = "") -> Damaged:
    """Return the error of a file: which file, what is wrong with the file, what helps."""
    return Damaged(f"{path} {why}{f'; {mend}' if mend else ''}")


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
