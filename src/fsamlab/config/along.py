"""Words that come along with a value of a sweep: `optimizer=sam` brings `optimizer.rho=0.4`.

The section `along` of hydra.sweeper says for a key and a value which keys come along with them:

    along:
      optimizer:
        sam: {optimizer.rho: 0.4}
        fsam: {optimizer.rho: 0.8, optimizer.lmbda: "0.6,0.9"}

So methods have different parameters in one grid. The words are added to a job that has the value; a key that the job
sets already, by the command line or the sweep file, keeps its value. Several values span a grid. Words that come along
bring no further words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from fsamlab.checks import ConfigError, did_you_mean
from fsamlab.config import SCHEMAS
from fsamlab.config.space import is_searched, word_of

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

KEY = "hydra.sweeper.along"
SEARCHED = "is a range to search, which does not come along; give values, a,b, or search it in an entry of grids"
EXAMPLE = "{optimizer: {sam: {optimizer.rho: 0.4}}}"


@dataclass(frozen=True)
class Entry:
    """What comes along with one value of one key.

    Attributes:
        name: where the entry stands, `hydra.sweeper.along.optimizer.sam`.
        key, value: a job that sets the key to the value has the words. The value is as :func:`_plain` writes it.
        words: {key: word}.
    """

    name: str
    key: str
    value: str
    words: dict[str, str]


def entries_of(loader: ConfigLoader, section: Any, grids: Iterable[Iterable[str]]) -> list[Entry]:
    """Return the checked entries of the section `along`.

    Args:
        loader: Hydra's, which knows the options of a group.
        section: {key: {value: {key: values}}}, or None.
        grids: the words of each grid of the sweep.

    Raises:
        ConfigError: the section is not of this form, no job sets a key, a group has no such option, or a word cannot
            come along.
    """
    found = []
    keys = sorted({key_of(word) for words in grids for word in words})
    for key, by_value in _mapping(KEY, section).items():
        by_value = _mapping(f"{KEY}.{key}", by_value)
        if by_value and key not in keys:
            hint = did_you_mean(str(key), keys) or "; set it in params, in grids or on the command line"
            allowed = f"no job sets {key}{hint}, or take the entry away: ~{KEY}.{key}"
            raise ConfigError(f"{KEY}.{key}", by_value, allowed)
        for value, words in by_value.items():
            name = f"{KEY}.{key}.{value}"
            if key in (*SCHEMAS, "experiment") and str(value) not in (options := loader.get_group_options(key)):
                hint = did_you_mean(str(value), options) or f"; {key} has {', '.join(options)}"
                raise ConfigError(f"{KEY}.{key}", value, f"is no option{hint}")
            words = {str(of): _word(name, key, str(of), text) for of, text in _mapping(name, words).items()}
            found.append(Entry(name, str(key), _plain(str(value)), words))
    return found


def words_along(entries: Iterable[Entry], job: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """Return the words that come along with the words of a job.

    Args:
        entries: from :func:`entries_of`.
        job: the words of the job.
        taken: further keys that have their values already.

    Raises:
        ConfigError: two entries give a key of the job different values.
    """
    said = {key_of(word): word.partition("=")[2] for word in job}
    more: dict[str, tuple[str, Entry]] = {}
    for entry in entries:
        if entry.key not in said or _plain(said[entry.key]) != entry.value:
            continue
        for key, word in entry.words.items():
            if key in said or key in taken:
                continue
            before, other = more.setdefault(key, (word, entry))
            if before != word:
                allowed = f"and {before} of {other.name} hold for one job; leave out one, or say both in grids"
                raise ConfigError(entry.name, word, allowed)
    return [word for word, _ in more.values()]


def key_of(word: str) -> str:
    """Return the key of a word of a command line, without the signs in front of the key."""
    return word.partition("=")[0].lstrip("+~")


@cache
def _plain(text: str) -> str:
    """Return the text of a value that is the same for all spellings of the value: 0.40, 4e-1 and '0.4'."""
    try:
        value = OverridesParser.create().parse_overrides([f"key={text}"])[0].value()
    except HydraException:
        return text
    if isinstance(value, QuotedString):
        return _plain(value.text) if value.text != text else text
    return str(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _word(name: str, owner: str, key: str, value: Any) -> str:
    """Return the word of a key that comes along.

    Raises:
        ConfigError: the key or its value cannot come along.
    """
    if isinstance(value, Mapping):
        allowed = "must be a value, or values; write keys with dots, {optimizer.rho: 0.4}"
        raise ConfigError(f"{name}.{key}", value, allowed)
    if key == owner:
        raise ConfigError(name, f"{key}={value}", f"sets {key} itself; say what else comes along")
    if key.startswith(("hydra.", "hydra/")):
        raise ConfigError(name, f"{key}={value}", "is a setting of the launch, not of a job; give it beside the jobs")
    word = word_of(key, value)
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException:
        raise ConfigError(name, word, "cannot be read; write a key and its value, {optimizer.rho: 0.4}") from None
    if is_searched(override.value()):
        raise ConfigError(f"{name}.{key}", value, SEARCHED)
    return word


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(name, value, f"must be keys with values that words come along with, {EXAMPLE}")
    return value
