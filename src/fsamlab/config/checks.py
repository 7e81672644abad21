"""Refusing a value in one line: which key, which value, what is allowed, what to do."""

from __future__ import annotations

import difflib
import math
from typing import Any

MISSING: Any = "???"  # OmegaConf's marker for a value that has to be given


class ConfigError(ValueError):
    """A value of the user's that cannot be used. One line: key, value, what is allowed, what to do."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={value}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def under(self, prefix: str) -> ConfigError:
        """Return the same error with the key in a group of the config: `optimizer.` and `rho`."""
        return ConfigError(prefix + self.key, self.value, self.allowed)


class StrayKey(ConfigError):
    """A key that no schema has."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)
        self.key = line.split(":")[0]


def did_you_mean(word: str, known: list[str]) -> str:
    """Return `" (did you mean X?)"` for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def unknown_key(key: str, name: str, known: list[str], where: str) -> str:
    """Return the line for a key that does not exist: the nearest that does, or all of them."""
    near = did_you_mean(name, known)
    return f"{key}: unknown key{near or f'; {where} has ' + ', '.join(known)}"


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among `allowed`."""
    if value not in allowed:
        raise ConfigError(key, value, f"must be one of {', '.join(allowed)}{did_you_mean(str(value), list(allowed))}")


def in_range(
    key: str,
    value: float | None,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuse a number outside [low, high]; NaN and infinity are always refused; None passes."""
    if value is None:
        return
    below = value <= low if open_low else value < low
    above = value >= high if open_high else value > high
    if not math.isfinite(value) or below or above:
        left = "" if low == -math.inf else f"{'>' if open_low else '>='} {low:g}"
        right = "" if high == math.inf else f"{'<' if open_high else '<='} {high:g}"
        raise ConfigError(
            key, value, f"must be finite and {' and '.join(p for p in (left, right) if p)}".rstrip(" and")
        )
