"""Reading files and checking the types of their values. A damaged file gives one line with its name."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from fsamlab.storage import yaml_blocks


class CannotResume(RuntimeError):
    """A run cannot continue from its files; the message says what to do."""


class Damaged(ValueError):
    """A file cannot be read, or its content is not of the expected form; the message names file, line and remedy."""


def damaged(path: Path, why: str, mend: str = "") -> Damaged:
    """Return the error for a file: the file's name, the damage, the remedy."""
    return Damaged(f"{path} {why}{f'; {mend}' if mend else ''}")


@contextlib.contextmanager
def reading(path: Path, mend: str = "") -> Iterator[None]:
    """Raise an error of reading `path` as :class:`Damaged`; an error that says that there is no file stays.

    Raises:
        FileNotFoundError: the file does not exist.
        Damaged: the file exists and cannot be read, or a directory stands in its place.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as e:
        file = next(parent for parent in path.parents if parent.exists())
        raise damaged(file, "is a file and must be a directory", "move it away") from e
    except OSError as e:
        raise damaged(path, f"cannot be read: {e.strerror}", mend) from e


def read_bytes(path: Path, mend: str = "") -> bytes | None:
    """Return the content of a file, or None where the file does not exist.

    Args:
        path: the file.
        mend: the remedy for a damaged file, for the message.

    Raises:
        Damaged: the file exists and cannot be read, or a directory stands in its place.
    """
    try:
        with reading(path, mend):
            return path.read_bytes()
    except FileNotFoundError:
        return None


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
        return None if content is None else yaml_blocks.load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        text = " ".join(str(e).split())
        raise damaged(path, f"is not YAML: {type(e).__name__}: {text}", mend) from e


class JsonLines:
    """The JSON objects in a file, one from each line, read line by line; an unfinished last line is left out.

    A context manager that opens and closes the file. Iterating over it yields the objects, each with the place in bytes
    where its line ends.

    Args:
        path: the file; there are no lines where the file does not exist.
        required: key -> kind of its value, for every line.
        mend: the remedy for a damaged file, for the message.

    Attributes:
        size: the size of the file in bytes when it was opened.

    Raises:
        Damaged: the file cannot be read; while iterating, a finished line is not a JSON object or lacks a required key.
    """

    def __init__(self, path: Path, required: Mapping[str, Any] | None = None, mend: str = "") -> None:
        self._path, self._required, self._mend = path, required or {}, mend
        self._file: BufferedReader | None = None
        self.size = 0

    def __enter__(self) -> JsonLines:
        with contextlib.suppress(FileNotFoundError), reading(self._path, self._mend):
            self._file = self._path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def fileno(self) -> int:
        """Return the number of the open file."""
        assert self._file is not None
        return self._file.fileno()

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int]]:
        end = 0
        for number, line in enumerate(self._lines(), start=1):
            end += len(line)
            row, wrong = parsed_line(line[:-1], self._required)
            if row is None:
                mend = f"; {self._mend}" if self._mend else ""
                raise Damaged(f"{self._path}, line {number}: {wrong}{mend}")
            yield row, end

    def _lines(self) -> Iterator[bytes]:
        if self._file is None:
            return
        while True:
            with reading(self._path, self._mend):
                line = self._file.readline()
            if not line.endswith(b"\n"):
                return
            yield line


def read_json_lines(path: Path, required: Mapping[str, Any] | None = None, mend: str = "") -> list[dict[str, Any]]:
    """Return the objects of :class:`JsonLines` as a list."""
    with JsonLines(path, required, mend) as lines:
        return [row for row, _ in lines]


def parsed_line(line: bytes, required: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the JSON object of a line, or None with the reason why the line is not such an object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return None, f"not a JSON object: {line[:60].decode(errors='replace')!r}"
    wrong = misfit(row, required, required)
    return (row, "") if wrong is None else (None, wrong)


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
