"""A key that a tuning study searches, with its range, as the words of a command line or of a sweep file give it.

`KEY=interval(0.01,0.5)`, `KEY=log(0.01,0.5)`, `KEY=int(interval(1,8))`, `KEY=range(1,9,2)` and `KEY=choice(a,b)` are
searched. A plain list, `KEY=a,b`, is not: it gives settings that stand beside each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from fsamlab.checks import ConfigError

DIGITS = 4  # significant digits of a real value: a word that can be read, typed and named in a directory's record
LOG = re.compile(r"^([^=]+=\s*(?:int\()?)log\(([^()]*)\)")
Value = float | int | str


@dataclass(frozen=True)
class Dimension:
    """A searched key.

    Attributes:
        key: the key as a word of Hydra begins with it, `optimizer.rho` or `+optimizer.parameters.alpha`.
        kind: float and int for an interval, `ordered` for a range of steps, `choice` for values without an order.
        low, high: the ends of an interval, both included.
        log: whether the logarithm of the value is searched evenly.
        values: the values of `ordered` and `choice`, as words.
    """

    key: str
    kind: str
    low: float = 0
    high: float = 0
    log: bool = False
    values: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key in the configuration."""
        return self.key.lstrip("+")

    @property
    def text(self) -> str:
        """The range in words, the same for every spelling of it."""
        if self.values:
            return f"{'range' if self.kind == 'ordered' else 'choice'}({','.join(self.values)})"
        within = f"{'log' if self.log else 'interval'}({self.low:g},{self.high:g})"
        return f"int({within})" if self.kind == "int" else within

    @property
    def ends(self) -> tuple[Value, Value]:
        """The first and the last value."""
        return (self.values[0], self.values[-1]) if self.values else (self.written(self.low), self.written(self.high))

    def written(self, value: float) -> Value:
        """Return a value of an interval in the form of a word: a real number with few digits, inside the interval."""
        if self.kind == "int":
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def word(self, value: Value) -> str:
        """Return the word that sets the key."""
        return f"{self.key}={value}"

    @classmethod
    def of(cls, override: Override) -> Dimension | None:
        """Return what a word asks to search; None where it asks for nothing.

        Raises:
            ConfigError: the range cannot be searched.
        """
        key, value = override.get_key_element(), override.value()
        said = override.input_line.partition("=")[2] if override.input_line else value
        if isinstance(value, IntervalSweep):
            low, high, log = value.start, value.end, "log" in value.tags
            if low is None or high is None or not low < high:
                raise ConfigError(key, said, "must have a low end below its high end")
            if log and low <= 0:
                raise ConfigError(key, said, "must begin above 0: the logarithm is searched")
            kind = "int" if isinstance(low, int) and isinstance(high, int) else "float"
            return cls(key, kind, low, high, log)
        searches = isinstance(value, RangeSweep) or (isinstance(value, ChoiceSweep) and not value.simple_form)
        if not searches:
            return None
        values = tuple(override.sweep_string_iterator())
        if len(values) < 2:
            raise ConfigError(key, said, "must have two values or more")
        return cls(key, "ordered" if isinstance(value, RangeSweep) else "choice", values=values)


def spelled(word: str) -> str:
    """Return a word of a command line as Hydra's grammar spells it: `log(a,b)` is `tag(log,interval(a,b))`."""
    return LOG.sub(r"\1tag(log,interval(\2))", word)


def word_of(key: object, value: object) -> str:
    """Return the word of a command line for a key and a value of a sweep file."""
    return spelled(f"{key}={'null' if value is None else value}")


def is_searched(value: Any) -> bool:
    """Return whether a word's value is an interval, which has no list of values."""
    return isinstance(value, IntervalSweep)
