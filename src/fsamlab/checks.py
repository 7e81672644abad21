"""What the values of a schema may be, and refusing one in one line: key, value, what is allowed, what to do.

A field of a schema declares its range with a function of this module (:func:`number`, :func:`word`, ...);
:func:`check_fields` holds an object against its types and ranges, so that no field is left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MISSING: Any = "???"  # OmegaConf's marker for a value that has to be given
RANGE = "range"  # the key in a field's metadata
SHOWN = 100  # characters of a value in a message
COUNT = 10**9  # more steps, samples or batches than any run has


_RECORDED: ContextVar[bool] = ContextVar("recorded", default=False)


@contextmanager
def recorded() -> Iterator[None]:
    """Build schemas from what a run has on record: what trains alike whatever it says is not refused inside.

    These are keys without effect and texts of any form. A former version may have allowed them, and the run is there.
    """
    token = _RECORDED.set(True)
    try:
        yield
    finally:
        _RECORDED.reset(token)


def is_recorded() -> bool:
    """Return whether the schemas that are built now come from a record."""
    return _RECORDED.get()


class ConfigError(ValueError):
    """A value of the user's that cannot be used. One line: key, value, what is allowed, what to do."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={shown(value)}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def under(self, prefix: str) -> ConfigError:
        """Return the same error with the key in a group of the config: `optimizer.` and `rho`."""
        return ConfigError(prefix + self.key, self.value, self.allowed)


class StrayKey(ConfigError):
    """A key that no schema has."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)
        self.key = line.split(":")[0]


def shown(value: object) -> str:
    """Return a value as a message shows it: one line, cut where it is long, None as `null`."""
    if value is None:
        return "null"
    try:
        said = str(value)
    except ValueError:  # an integer of thousands of digits
        return "an integer of thousands of digits"
    if not said.isprintable() or said != said.strip() or not said:
        said = repr(value)
    return said if len(said) <= SHOWN else f"{said[: SHOWN // 2]}...{said[-SHOWN // 4 :]}"


@dataclass(frozen=True)
class Number:
    """An interval; a bound that is None has no limit."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def check(self, key: str, value: float) -> None:
        """Refuse a number outside the interval; NaN and infinity are always refused."""
        below = self.low is not None and (value <= self.low if self.open_low else value < self.low)
        above = self.high is not None and (value >= self.high if self.open_high else value > self.high)
        if (isinstance(value, float) and not math.isfinite(value)) or below or above:
            left = "" if self.low is None else f"{'>' if self.open_low else '>='} {_said(self.low)}"
            right = "" if self.high is None else f"{'<' if self.open_high else '<='} {_said(self.high)}"
            raise ConfigError(key, value, " and ".join(["must be finite", *(p for p in (left, right) if p)]))


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    allowed: tuple[str, ...]

    def check(self, key: str, value: str) -> None:
        """Refuse another word."""
        one_of(key, value, self.allowed)


@dataclass(frozen=True)
class Text:
    """A line of printable characters that is neither empty nor longer than `longest`, and has none of `without`."""

    longest: int = 4096
    without: str = ""

    def check(self, key: str, value: str) -> None:
        """Refuse another text."""
        if is_recorded():
            return
        bad = not value or value != value.strip() or not value.isprintable() or len(value) > self.longest
        if bad or any(c in value for c in self.without):
            none_of = f", none of {' '.join(self.without)}" if self.without else ""
            allowed = f"must have 1 to {self.longest} printable characters, no blanks at its ends{none_of}"
            raise ConfigError(key, repr(value), allowed)  # quoted: a blank or a line break must be seen


@dataclass(frozen=True)
class Label(Text):
    """A text that is no number: `nan` as a method's name is a missing value in every table that is read again."""

    longest: int = 200

    def check(self, key: str, value: str) -> None:
        """Refuse a text that is a number."""
        super().check(key, value)
        try:
            float(value)
        except ValueError:
            return
        raise ConfigError(key, value, "must be a name, not a number")


@dataclass(frozen=True)
class Location(Text):
    """A path; a `~` in front is a home directory that this machine knows."""

    def check(self, key: str, value: str) -> None:
        """Refuse a text that is no path."""
        super().check(key, value)
        try:
            Path(value).expanduser()
        except RuntimeError:
            raise ConfigError(key, value, "begins with a home directory that this machine does not know") from None


@dataclass(frozen=True)
class ImportPath(Text):
    """A name of foreign code, `package.module:function`; whether the module exists is known when it is imported."""

    def check(self, key: str, value: str) -> None:
        """Refuse a text of another form."""
        super().check(key, value)
        if is_recorded():
            return
        module, colon, name = value.partition(":")
        if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise ConfigError(key, value, "must have the form package.module:function")


@dataclass(frozen=True)
class Listed:
    """A list, each element in `each`; `fewest` and `most` count them."""

    each: Number | Choice | Text
    fewest: int = 0
    most: int = 1000

    def check(self, key: str, value: list[Any]) -> None:
        """Refuse another number of elements, and each that is outside its range."""
        if not self.fewest <= len(value) <= self.most:
            count = str(self.most) if self.fewest == self.most else f"{self.fewest} to {self.most}"
            raise ConfigError(key, value, f"must be a list of {count} values")
        for element in value:
            self.each.check(key, element)


def _field(default: Any, range_: Any) -> Any:
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={RANGE: range_})
    return dataclasses.field(default=default, metadata={RANGE: range_})


def number(
    default: Any, low: float | None, high: float | None, *, open_low: bool = False, open_high: bool = False
) -> Any:
    """Return a schema's field for a number in [low, high], or for None where its type allows that."""
    return _field(default, Number(low, high, open_low, open_high))


def word(default: Any, *allowed: str) -> Any:
    """Return a schema's field for one of some words."""
    return _field(default, Choice(allowed))


def text(default: Any, longest: int = 4096, without: str = "") -> Any:
    """Return a schema's field for a :class:`Text`."""
    return _field(default, Text(longest, without))


def label(default: Any, longest: int = 200) -> Any:
    """Return a schema's field for a :class:`Label`."""
    return _field(default, Label(longest))


def location(default: Any) -> Any:
    """Return a schema's field for a :class:`Location`."""
    return _field(default, Location())


def function_path(default: Any) -> Any:
    """Return a schema's field for an :class:`ImportPath`."""
    return _field(default, ImportPath())


def listed(default: list[Any], each: Any, fewest: int = 0, most: int = 1000) -> Any:
    """Return a schema's field for a list."""
    return _field(default, Listed(each, fewest, most))


def check_fields(prefix: str, config: Any) -> None:
    """Refuse each field of a schema's object whose value has another type than declared, or lies outside its range.

    Args:
        prefix: of the keys in messages, for example `train.`.
        config: a schema's object.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is MISSING or value == MISSING:
            continue
        check_type(prefix + field.name, value, hints[field.name])
        if value is not None and RANGE in field.metadata:
            field.metadata[RANGE].check(prefix + field.name, value)


NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list", dict: "a mapping"}


def check_type(key: str, value: Any, hint: Any) -> None:
    """Refuse a value of another type than `hint`, as the schemas use types."""
    if hint is Any:
        return
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        if type(None) not in options:
            raise ConfigError(key, None, f"must be {_named(options[0])}, not null")
        return
    hint = next(option for option in options if option is not type(None))
    outer = typing.get_origin(hint) or hint
    fits = {float: isinstance(value, int | float), int: isinstance(value, int)}.get(outer, isinstance(value, outer))
    if not fits or (isinstance(value, bool) and outer is not bool):
        raise ConfigError(key, value, f"must be {_named(hint)}")
    if outer is list and typing.get_args(hint):
        for element in value:
            check_type(key, element, typing.get_args(hint)[0])


def _named(hint: Any) -> str:
    outer = typing.get_origin(hint) or hint
    return NAMES.get(outer, "a section with keys of its own")


def _said(bound: float) -> str:
    return str(bound) if isinstance(bound, int) and abs(bound) < 10**7 else f"{bound:.10g}"


def did_you_mean(word: str, known: list[str]) -> str:
    """Return `" (did you mean X?)"` for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(word[:SHOWN], known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def unknown_key(key: str, name: str, known: list[str], where: str) -> str:
    """Return the line for a key that does not exist: the nearest that does, or all of them."""
    near = did_you_mean(name, known)
    return f"{shown(key)}: unknown key{near or f'; {where} has ' + ', '.join(known)}"


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among `allowed`."""
    if value not in allowed:
        raise ConfigError(key, value, f"must be one of {', '.join(allowed)}{did_you_mean(str(value), list(allowed))}")


def in_range(
    key: str,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuse a number outside [low, high]; NaN and infinity are always refused; None passes."""
    if value is not None:
        Number(low, high, open_low, open_high).check(key, value)
