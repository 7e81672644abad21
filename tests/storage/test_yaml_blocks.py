"""YAML that is parsed entry by entry has the value of the whole text."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fsamlab.storage import yaml_blocks

LINES = [
    *(
        "a: 1",
        "b: x",
        "a: 2",
        "c:",
        "  d: 1.0e-08",
        "  e: [1, 2]",
        "- 0.5",
        "  - x",
        "- a: 1",
        "  b: 2",
        "d: null",
        "y: no",
    ),
    *(
        "s: 'it''s'",
        'q: "open',
        'close"',
        "t: |",
        "  text",
        "",
        "u: >-",
        "# comment",
        "  # comment",
        "---",
        "...",
        "%Y",
    ),
    *("x: &a 1", "y: *a", "z: &b {k: 1}", "<<: *b", "f: {", "}", "g: [1,", "  2]", "? k", ": v", "\tx", "h:1", "word"),
    *("- - n", "x: 1\u2028y: 2", "é: 1", "a: 1\r", "d: 2020-01-01", "b: !!set {a, b}"),
]


def outcome(read, text):
    try:
        return read(text)
    except (yaml.YAMLError, ValueError) as e:
        return str(e)


@given(lines=st.lists(st.sampled_from(LINES), max_size=8), end=st.sampled_from(["\n", ""]))
def test_the_value_and_the_error_are_those_of_the_whole_text(lines, end):
    text = ("\n".join(lines) + end).encode()
    whole = outcome(lambda t: yaml.load(t, Loader=yaml_blocks.LOADER), text)
    found = outcome(yaml_blocks.load, text)
    assert found == whole
    assert repr(found) == repr(whole)  # the order of the keys, and 1 is not True


@pytest.mark.parametrize("value", [{"a": [1, {"b": []}], "c": {"d": "x\ny"}, "e": {}}, ["a=1", "b=" + 200 * "long "]])
def test_an_entry_is_parsed_once_and_a_reader_may_change_its_copy(value, monkeypatch):
    text, parsed = yaml.safe_dump(value, sort_keys=False).encode(), []
    monkeypatch.setattr(yaml, "load", lambda t, Loader, real=yaml.load: parsed.append(t) or real(t, Loader))
    yaml_blocks._entry.cache_clear()
    first = yaml_blocks.load(text)
    assert first == value
    assert parsed
    assert max(map(len, parsed)) < len(text)
    for inner in (first, first["a"], first["a"][1]["b"], first["c"]) if isinstance(value, dict) else (first,):
        inner.clear()
    del parsed[:]
    assert yaml_blocks.load(text) == value
    assert not parsed
