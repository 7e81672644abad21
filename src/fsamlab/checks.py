"""The allowed values of a schema's fields. A refused value gives one line: key, value, what is allowed, what to do.

A field of a schema declares its range with a function of this module (:func:`number`, :func:`word`, ...).
:func:`check_fields` checks an object against the types and ranges of all its fields, so that no field is forgotten.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

MISSING: Any = "???"  # OmegaConf's marker for a value that must be given
RANGE = "range"  # the key in a field's metadata
SHOWN = 100  # characters of a value in a message
COUNT = 10**9  # no run has more steps, samples or batches


# A context variable, not an argument: the checks run inside __post_init__ of dataclasses, which take no arguments.
_RECORDED: ContextVar[bool] = ContextVar("recorded", default=False)


@contextmanager
def recorded() -> Iterator[None]:
    """Build schemas from a run's record: inside, values that cannot change the training are not refused.

    These are keys without effect and texts of any form. An earlier version may have allowed them, and the recorded run
    exists.
    """
    token = _RECORDED.set(True)
    try:
        yield
    finally:
        _RECORDED.reset(token)


def is_recorded() -> bool:
    """Return whether the schemas that are being built come from a record."""
    return _RECORDED.get()


class ConfigError(ValueError):
    """A value from the user that cannot be used. The message is one line: key, value, what is allowed, what to do."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={shown(value)}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def under(self, prefix: str) -> ConfigError:
        """Return the same error with the key inside a group of the config, for example `rho` under `optimizer.`."""
        return ConfigError(prefix + self.key, self.value, self.allowed)


class StrayKey(ConfigError):
    """A key that no schema has."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)
        self.key = line.split(":")[0]


def shown(value: object) -> str:
    """Return a value as a message shows the value: on one line, cut where it is long, None as `null`."""
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
    """An interval; a bound of None means no limit."""

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
    """One word out of a list of words."""

    allowed: tuple[str, ...]

    def check(self, key: str, value: str) -> None:
        """Refuse a word that is not in the list."""
        one_of(key, value, self.allowed)


@dataclass(frozen=True)
class Text:
    """A line of printable characters, not empty, at most `longest` characters, without the characters of `without`."""

    longest: int = 4096
    without: str = ""

    def check(self, key: str, value: str) -> None:
        """Refuse a text that is not of this form."""
        if is_recorded():
            return
        bad = not value or value != value.strip() or not value.isprintable() or len(value) > self.longest
        if bad or any(c in value for c in self.without):
            none_of = f", none of {' '.join(self.without)}" if self.without else ""
            allowed = f"must have 1 to {self.longest} printable characters, no blanks at start and end{none_of}"
            raise ConfigError(key, repr(value), allowed)  # quoted: a blank or a line break must be seen


@dataclass(frozen=True)
class Label(Text):
    """A text that is not a number. A method with the name `nan` would be a missing value in every CSV table that pandas
    reads.
    """

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
    """A path; a `~` in front must be a home directory that this machine knows."""

    def check(self, key: str, value: str) -> None:
        """Refuse a text that cannot be a path."""
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
    """A list of `fewest` to `most` elements, each checked by `each`."""

    each: Number | Choice | Text
    fewest: int = 0
    most: int = 1000

    def check(self, key: str, value: list[Any]) -> None:
        """Refuse a list of another length, and an element outside its range."""
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


def within(default: Any, interval: Number) -> Any:
    """Return a schema's field for a number in an interval that other code checks as well."""
    return _field(default, interval)


def word(default: Any, *allowed: str) -> Any:
    """Return a schema's field for one word out of `allowed`."""
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


_TYPES: WeakKeyDictionary[type, Mapping[str, Any]] = WeakKeyDictionary()


def types_of(cls: type) -> Mapping[str, Any]:
    """Return the type of each annotated name of a class and its bases.

    Raises:
        NameError: an annotation names a type that is not known.
    """
    if cls not in _TYPES:  # kept: evaluating the annotations of a class takes longer than all its checks
        _TYPES[cls] = typing.get_type_hints(cls)
    return _TYPES[cls]


def check_fields(prefix: str, config: Any) -> None:
    """Refuse each field of a schema's object whose value has another type than declared or lies outside its range.

    Args:
        prefix: stands before the keys in messages, for example `train.`.
        config: an object of a schema class.

    Raises:
        ConfigError: for the first such field.
    """
    hints = types_of(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is MISSING or value == MISSING:
            continue
        check_type(prefix + field.name, value, hints[field.name])
        if value is not None and RANGE in field.metadata:
            field.metadata[RANGE].check(prefix + field.name, value)


NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list", dict: "a mapping"}


def check_type(key: str, value: Any, hint: Any) -> None:
    """Refuse a value of another type than `hint`; an int is a float too, and a bool is never a number."""
    if hint is Any:
        return
    options = _options(hint)
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


def check_hint(key: str, hint: Any) -> None:
    """Refuse, as a TypeError, the declared type of a parameter whose values :func:`check_type` cannot check."""
    options = [option for option in _options(hint) if option is not type(None)]
    if hint is not Any and (len(options) != 1 or (typing.get_origin(options[0]) or options[0]) not in NAMES):
        known = ", ".join(kind.__name__ for kind in NAMES)
        raise TypeError(f"{key} has the type {hint}, and has to have one of {known}, alone or with `| None`")


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _named(hint: Any) -> str:
    outer = typing.get_origin(hint) or hint
    return NAMES.get(outer, "a section with keys of its own")


def _said(bound: float) -> str:
    return str(bound) if isinstance(bound, int) and abs(bound) < 10**7 else f"{bound:.10g}"


def did_you_mean(word: str, known: list[str], cutoff: float = 0.5) -> str:
    """Return `" (did you mean X?)"` for the most similar word of `known`, or an empty string."""
    near = difflib.get_close_matches(word[:SHOWN], known, n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def unknown_key(key: str, name: str, known: list[str], where: str) -> str:
    """Return the message for a key that does not exist: with the most similar key, or with all keys."""
    near = did_you_mean(name, known)
    return f"{shown(key)}: unknown key{near or f'; {where} has ' + ', '.join(known)}"


def mapping(key: str, value: Any, example: str) -> dict[str, Any]:
    """Return a mapping of names to values, an empty one for null; refuse anything else with an example in the line."""
    found = {} if value is None else value
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(key, found, f"must be a mapping of names to values, for example {example}")
    return found


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
