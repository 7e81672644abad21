"""Reads many YAML files that are almost equal, such as the config.yaml of the runs of a sweep.

YAML is slow to parse: libyaml and its Python half take a millisecond for one config.yaml. The runs of a sweep differ in
a few lines. So a text is cut at its top-level entries, and each entry is parsed once and remembered.

Why the result is that of the whole text: every entry begins at the first column with `key:` or `- `, and is parsed as a
document of its own. An entry that parses alone has closed its quotes and brackets, has no anchor of another entry, and
ends at the next line that begins at the first column. Every other text is parsed as a whole, and so are the texts with
errors, whose messages count lines.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the loader of libyaml is several times faster
ENTRIES = 2048  # that are remembered, of about 10 kB: 10,000 runs of a sweep have some hundred different ones
KEY, ITEM = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*:(?=[ \n])"), re.compile(rb"- ")
STARTS = re.compile(rb"^(?=[^ \n])", re.MULTILINE)  # of the lines that begin at the first column


def load(content: bytes) -> Any:
    """Return the value of a YAML text, as `yaml.load` with the safe loader.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: the text is not YAML.
    """
    value = _of_entries(content)
    return yaml.load(content, Loader=LOADER) if value is None else value


def _of_entries(content: bytes) -> dict[Any, Any] | list[Any] | None:
    """Return the value of a text that is a mapping or a list of entries; None for any other text."""
    is_list = content.startswith(b"- ")
    start = ITEM if is_list else KEY
    starts = []
    for found in STARTS.finditer(content):
        at = found.start()
        if start.match(content, at):
            starts.append(at)
        elif is_list or not ITEM.match(content, at):  # a list below a key may begin at the first column too
            return None
    if not starts or starts[0] != 0:
        return None
    mapping: dict[Any, Any] = {}
    items: list[Any] = []
    for at, end in zip(starts, [*starts[1:], len(content)]):
        value = _entry(content[at:end])
        if isinstance(value, dict) and not is_list:
            mapping.update((key, _copied(one)) for key, one in value.items())
        elif isinstance(value, list) and is_list:
            items += [_copied(one) for one in value]
        else:
            return None
    return items if is_list else mapping


@lru_cache(maxsize=ENTRIES)
def _entry(text: bytes) -> dict[Any, Any] | list[Any] | None:
    """Return the value of an entry, a mapping or a list with one element; None if the entry is not YAML."""
    try:
        value = yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and len(value) == 1 else None


def _copied(value: Any) -> Any:
    """Return a copy of dictionaries and lists, because a reader may change what it has read."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value
