"""Reading files and checking the types of their values. A damaged file gives one line with its name."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the loader of libyaml is several times faster


class CannotResume(RuntimeError):
    """A run cannot continue from its files; the message says what to do."""


class Damaged(ValueError):
    """A file cannot be read, or its content is not of the expected form; the message names file, line and remedy."""


def damaged(path: Path, why: str, mend: str = "") -> Damaged:
    """Return the error for a file: the file's name, the damage, the remedy."""
    return Damaged(f"{path} {why}{f'; {mend}' if mend else ''}")


def read_bytes(path: Path, mend: str = "") -> bytes | None:
    """Return the content of a file, or None where the file does not exist.

    Args:
        path: the file.
        mend: the remedy for a damaged file, for the message.

    Raises:
        Damaged: the file exists and cannot be read, or a directory stands in its place.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except NotADirectoryError as e:
        file = next(parent for parent in path.parents if parent.exists())
        raise damaged(file, "is a file and must be a directory", "move it away") from e
    except OSError as e:
        raise damaged(path, f"cannot be read: {e.strerror}", mend) from e


def read_json(
    path: Path, shape: Mapping[str, Any] | None = None, required: Collection[str] = (), mend: str = ""
) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None where the file does not exist.

    Args:
        path: the file.
        shape: key -> kind of its value, see :func:`fits`; the object may have other keys too.
        required: keys that must be there.
        mend: the remedy for a damaged file, for the message.

    Raises:
        Damaged: the file is not a JSON object of this shape.
    """
    content = read_bytes(path, mend)
    if content is None:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise damaged(path, f"is not a JSON object: {e}", mend) from e
    if not isinstance(value, dict):
        raise damaged(path, f"is not a JSON object: it holds a {type(value).__name__}", mend)
    wrong = misfit(value, shape or {}, required)
    if wrong is not None:
        raise damaged(path, f"is damaged: {wrong}", mend)
    return value


def read_yaml(path: Path, mend: str = "") -> Any:
    """Return the value of the YAML in `path`, or None where the file does not exist.

    Raises:
        Damaged: the file is not YAML.
    """
    content = read_bytes(path, mend)
    try:
        return None if content is None else yaml.load(content, Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        text = " ".join(str(e).split())
        raise damaged(path, f"is not YAML: {type(e).__name__}: {text}", mend) from e


def read_json_lines(path: Path, required: Mapping[str, Any] | None = None, mend: str = "") -> list[dict[str, Any]]:
    """Return the JSON objects in `path`, one from each line; an unfinished last line is left out.

    Args:
        path: the file; the list is empty where the file does not exist.
        required: key -> kind of its value, for every line.
        mend: the remedy for a damaged file, for the message.

    Raises:
        Damaged: a finished line is not a JSON object, or lacks a required key.
    """
    whole, _, _ = (read_bytes(path, mend) or b"").rpartition(b"\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            wrong: str | None = f"not a JSON object: {line[:60].decode(errors='replace')!r}"
        else:
            wrong = misfit(row, required or {}, required or ())
        if wrong is not None:
            raise Damaged(f"{path}, line {number}: {wrong}{f'; {mend}' if mend else ''}")
        found.append(row)
    return found


def fits(value: Any, kind: Any) -> bool:
    """Return whether `value` is of `kind`.

    Args:
        value: any value.
        kind: a type or a union of types, `[kind]` for a list, `{str: kind}` for a dictionary.
    """
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(v, kind[0]) for v in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(fits(v, kind[str]) for v in value.values())
    return isinstance(value, kind)


def misfit(value: Mapping[str, Any], shape: Mapping[str, Any], required: Collection[str] = ()) -> str | None:
    """Return in one line which key of `value` is missing or has a value of another kind; None where all keys fit."""
    missing = [key for key in required if key not in value]
    if missing:
        return f"{missing[0]} is missing"
    wrong = [key for key, kind in shape.items() if key in value and not fits(value[key], kind)]
    return f"{wrong[0]} is {str(value[wrong[0]])[:60]!r}" if wrong else None
