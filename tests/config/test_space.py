"""The words of a search: which keys are searched, and in which range."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from fsamlab.checks import ConfigError
from fsamlab.config.space import Dimension, spelled


def dimension(word):
    (override,) = OverridesParser.create().parse_overrides([spelled(word)])
    return Dimension.of(override)


@pytest.mark.parametrize(
    ("word", "kind", "text", "ends"),
    [
        ("a.b=interval(0.01,0.5)", "float", "interval(0.01,0.5)", (0.01, 0.5)),
        ("a.b=log(0.01,0.5)", "float", "log(0.01,0.5)", (0.01, 0.5)),
        ("a.b=tag(log,interval(0.01,0.5))", "float", "log(0.01,0.5)", (0.01, 0.5)),
        ("a.b=log(1e-6, 1e-2)", "float", "log(1e-06,0.01)", (1e-6, 1e-2)),
        ("a.b=interval(0.123446,2)", "float", "interval(0.123446,2)", (0.123446, 2.0)),  # rounded, but not to outside
        ("a.b=int(interval(1,8))", "int", "int(interval(1,8))", (1, 8)),
        ("a.b=int(log(1,64))", "int", "int(log(1,64))", (1, 64)),
        ("a.b=range(1,9,2)", "ordered", "range(1,3,5,7)", ("1", "7")),
        ("a.b=choice(constant,cosine)", "choice", "choice(constant,cosine)", ("constant", "cosine")),
        ("+a.b=choice([1,2],[3])", "choice", "choice([1,2],[3])", ("[1,2]", "[3]")),
    ],
)
def test_what_is_searched(word, kind, text, ends):
    found = dimension(word)
    assert (found.kind, found.text, found.ends) == (kind, text, ends)
    assert found.name == "a.b"
    assert found.word(found.ends[1]) == f"{word.partition('=')[0]}={ends[1]}"


@pytest.mark.parametrize("word", ["a=1,2", "a=1", "a=[1,2]", "a=logits", "a='log(1,2)'", "a=log"])
def test_what_is_not_searched(word):
    assert spelled(word) == word
    assert dimension(word) is None


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("a=interval(2,1)", "a=interval(2,1): must have a low end below its high end"),
        ("a=interval(1,1)", "must have a low end below its high end"),
        ("a=log(0,1)", "must begin above 0"),
        ("a=choice(1)", "must have two values or more"),
    ],
)
def test_ranges_that_cannot_be_searched(word, reason):
    with pytest.raises(ConfigError) as error:
        dimension(word)
    assert reason in str(error.value)


def test_a_real_value_is_written_with_few_digits():
    found = dimension("a=log(0.01,0.5)")
    assert found.written(0.123456789) == 0.1235
    assert found.written(0.00999999) == 0.01
