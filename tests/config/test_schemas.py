"""Every field of every schema has a type and a range that are checked, and what they refuse is one line."""

import dataclasses
import types
import typing

import pytest

from fsamlab.axes import rules
from fsamlab.checks import Listed, Number, check_type, shown
from fsamlab.config import SCHEMAS, AugmentConfig, Config, ConfigError, MeasureConfig

# tables in rules.py; what is checked by the choices themselves
UNBOUNDED = {*(f"optimizer.{axis}" for axis in rules.AXES), "optimizer.parameters"}
CHOICES = [c for choices in rules.AXES.values() for c in choices.values()]
SCHEMA_CLASSES = [Config, MeasureConfig, AugmentConfig, *(cls for group in SCHEMAS.values() for cls in group.values())]


def kinds(hint):
    return [k for k in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)) if k is not type(None)]


def fields_of(cls):
    hints = typing.get_type_hints(cls)
    return [(f, kinds(hints[f.name])) for f in dataclasses.fields(cls)]


@pytest.mark.parametrize("cls", [*SCHEMA_CLASSES, *CHOICES], ids=lambda cls: cls.__name__)
def test_every_field_says_what_it_may_be(cls):
    of_the_family = rules.parameter_types() if cls.__name__ == "OptimizerConfig" else {}
    for f, (kind, *_) in fields_of(cls):
        if kind in (bool, typing.Any) or dataclasses.is_dataclass(kind) or f.name in of_the_family:
            continue
        if f"optimizer.{f.name}" in UNBOUNDED or (cls is MeasureConfig and f.name in ("root", "run")):
            continue  # tables in rules.py; paths that the command itself gives
        allowed = f.metadata.get("range")
        assert allowed is not None, f"{cls.__name__}.{f.name}"
        inner = allowed.each if isinstance(allowed, Listed) else allowed
        numeric = {int, float} & {kind, *typing.get_args(kind)}
        assert isinstance(inner, Number) == bool(numeric), f.name
        if isinstance(inner, Number):
            assert inner.low is not None, f.name
            assert inner.high is not None, f.name


BAD = {
    bool: [2, "yes", None, [True]],
    int: [2**63, -(2**63), 1.5, float("nan"), "1", True, [1], {}, "x" * 5000],
    float: [float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 10**400, "1", True, [1.0], {}],
    str: ["", " ", "a\nb", " a", "a\0b", "\udc80", "x" * 5000, 5, True, ["a"], {}],
    list: [5, "a", [[1]], [None], [{}], [float("nan")], ["", "a"], ["x" * 5000] * 3, None],
}


def object_of(cls):
    """An object with the defaults, and what has none."""
    names = {
        "optimizer": SCHEMAS["optimizer"]["variant"](name="sgd"),
        "data": SCHEMAS["data"]["images"](name="digits"),
        "model": SCHEMAS["model"]["model"](name="small_cnn"),
        "train": SCHEMAS["train"]["train"](),
        "diagnostics": SCHEMAS["diagnostics"]["diagnostics"](name="full", quantities=["trace"]),
        "tracker": SCHEMAS["tracker"]["tracker"](name="none"),
    }
    if cls in (Config, MeasureConfig):
        return cls(**{f.name: names[f.name] for f in dataclasses.fields(cls) if f.name in names})
    has_name = "name" in {f.name for f in dataclasses.fields(cls)}
    return cls() if not has_name else cls(name="none" if "Tracker" in cls.__name__ else "x")


def bad_values(cls):
    hints = typing.get_type_hints(cls)
    for f, (kind, *_) in fields_of(cls):
        if kind is typing.Any or (cls is MeasureConfig and f.name in ("root", "run")):
            continue
        for value in BAD.get(typing.get_origin(kind) or kind, [5, "a", None]):
            if value is not None or type(None) not in typing.get_args(hints[f.name]):
                yield f.name, value


@pytest.mark.parametrize("cls", [*SCHEMA_CLASSES, *CHOICES], ids=lambda cls: cls.__name__)
def test_what_no_field_can_mean_is_refused_in_one_line(cls):
    good = object_of(cls)
    for name, value in bad_values(cls):
        try:
            dataclasses.replace(good, **{name: value})
        except ConfigError as e:
            text = str(e)
        else:
            pytest.fail(f"{cls.__name__}.{name}={shown(value)} was accepted")
        assert name in text.split("=")[0]
        assert text.isprintable()
        assert len(text) < 400


@pytest.mark.parametrize(
    ("value", "hint", "allowed"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (None, int | None, True),
        (None, int, False),
        ([1, 2.5], list[float], True),
        ([1, "a"], list[float], False),
        ((1,), list[float], False),
    ],
)
def test_types_are_those_of_yaml(value, hint, allowed):
    if allowed:
        check_type("k", value, hint)
    else:
        with pytest.raises(ConfigError):
            check_type("k", value, hint)


def test_shown_is_one_short_line():
    assert shown(None) == "null"
    assert shown("a\nb") == "'a\\nb'"
    assert shown("") == "''"
    assert shown(0.5) == "0.5"
    assert len(shown("x" * 10_000)) < 150
    assert shown(10**5000) == "an integer of thousands of digits"


WRONG = {
    "optimizer.name=nan": "optimizer.name=nan: must be a name, not a number",
    "diagnostics.name=1e5": "diagnostics.name=100000.0: must be a name, not a number",
    "data.std=[[1]]": "data.std=[1]: must be a number",
    "data.mean=[nan]": "data.mean=nan: must be finite",
    "data.std=[0]": "data.std=0.0: must be finite and >= 1e-06",
    "train.num_threads=1000000": "train.num_threads=1000000: must be finite and >= 1 and <= 1024",
    "diagnostics.num_probes=9223372036854775808": "diagnostics.num_probes=9223372036854775808: must be finite",
    "runs_dir=": "runs_dir='': must have 1 to 4096 printable characters",
    "runs_dir='~no_such_user_9/x'": "begins with a home directory that this machine does not know",
    "data.root='~no_such_user_9/x'": "data.root=~no_such_user_9/x: begins with a home directory",
    "name=' '": "name=' ': must have",
    "'name=\"a\nb\"'": "name='a\\nb': must have",
    "train.accumulate_steps=65": "train.accumulate_steps=65: must be <= data.batch_size=64",
    "train.milestones=[0.7,0.3]": "train.milestones=[0.7, 0.3]: must ascend",
    "train.milestones=[0.6]": "train.milestones=[0.6]: has no effect with train.schedule=cosine",
    "train.gamma=0.2": "train.gamma=0.2: has no effect with train.schedule=cosine: only schedule=step uses this key",
    "data=synthetic data.num_samples=10000000 data.image_size=512": "data.num_samples=10000000: 2.6e+12 numbers",
    "tracker.finish_timeout=1e10": "tracker.finish_timeout=10000000000.0: must be finite and >= 0.01 and <= 86400",
    "tracker.project=a/b": "tracker.project='a/b': must have 1 to 128 printable characters",
    "tracker.entity=a/b": "tracker.entity='a/b'",
    "tracker.tags=['']": "tracker.tags='': must have 1 to 64",
    "data.import_path=mine": "data.import_path=mine: must have the form package.module:function",
    "model.import_path='a b:c'": "model.import_path=a b:c: must have the form package.module:function",
    "model.import_path=.a:b": "model.import_path=.a:b: must have the form package.module:function",
    f"tracker.tags=[{'x' * 65}]": "must have 1 to 64 printable characters",
}


@pytest.mark.parametrize("words", WRONG)
def test_values_that_mean_nothing(composed, words):
    parts = [words.strip("'")] if "\n" in words else words.split(" data.") if words.startswith("data=") else [words]
    parts = [parts[0], *(f"data.{part}" for part in parts[1:])]
    with pytest.raises(ConfigError) as e:
        composed(*parts)
    assert WRONG[words] in str(e.value)
    assert str(e.value).isprintable()


def test_bounds_leave_room_for_what_runs_use(composed):
    composed("train.num_threads=256", "train.epochs=100000", "optimizer.rho=1000", "diagnostics.max_products=1000")
    composed("data.batch_size=10000000", "train.accumulate_steps=1000")
    composed("train.schedule=step", "train.milestones=[0.3,0.6,0.6,0.9]", "train.gamma=0.2")
    composed("optimizer.lr=0", "train.checkpoint_every_minutes=0", "data.mean=[0]", "tracker.tags=[a,b c]")
