"""Checks of the entries of a YAML file that a user writes: unknown keys, kinds of values, missing keys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsamlab.config import did_you_mean
from fsamlab.storage.reading import Damaged, damaged

NUMBER = (int, float)
WORDS = {str: "a text", dict: "a mapping", list: "a list", bool: "true or false", int: "an integer", NUMBER: "a number"}


@dataclass(frozen=True)
class Place:
    """A place in a file, for messages."""

    path: Path
    entry: str

    def wrong(self, why: str) -> Damaged:
        """Return the error for this place."""
        return damaged(self.path, f"is damaged: {self.entry}: {why}")


def check_keys(
    place: Place, found: Mapping[Any, Any], shape: Mapping[str, Any], required: Iterable[str], prefix: str = ""
) -> None:
    """Refuse keys that `shape` does not have, values of another kind, and missing keys.

    Args:
        place: where the mapping stands.
        found: the mapping.
        shape: key -> kind of its value, one of WORDS.
        required: keys that must be there.
        prefix: what stands before the keys in messages.

    Raises:
        Damaged: names file, place and key.
    """
    for key, value in found.items():
        if key not in shape:
            hint = did_you_mean(str(key), list(shape)) or f"; the keys are {', '.join(shape)}"
            raise place.wrong(f"unknown key {prefix}{key}{hint}")
        check_kind(place, prefix + key, value, shape[key])
    for key in required:
        if key not in found:
            raise place.wrong(f"{prefix}{key} is missing")


def check_kind(place: Place, key: str, value: Any, kind: Any) -> None:
    """Refuse a value of another kind, and a number that is not finite.

    Raises:
        Damaged: names file, place, key and value.
    """
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise place.wrong(f"{key} is {str(value)[:60]!r} and must be {WORDS[kind]}")
