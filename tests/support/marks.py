"""Marks for parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def several(value: Any) -> tuple[Any, ...]:
    """Return the values of the parameters: a tuple has one for each."""
    return value if isinstance(value, tuple) else (value,)


def long_but(plain: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Return the parameters of a test, marked long but for those in `plain`: the plain suite shows one of each kind."""
    found = [value if value in plain else pytest.param(*several(value), marks=pytest.mark.long) for value in values]
    assert any(value in plain for value in found)
    return found
