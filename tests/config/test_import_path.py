import decimal
import math
import numbers

import pytest

from fsamlab.config import ConfigError
from fsamlab.config.import_path import call_imported, import_function


def test_imports():
    assert import_function("data.import_path", "math:sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("math.sqrt", "form package.module:function"),
        ("no_such_package.x:f", "no module no_such_package"),
        ("math:no_such", "has no function no_such"),
        ("math:pi", "has no function pi"),
        ("..math:sqrt", "form package.module:function"),
        ("builtins:int", "cannot be found out"),
    ],
)
def test_refuses_in_one_line(path, message):
    with pytest.raises(ConfigError, match=message) as raised:
        import_function("data.import_path", path)
    assert str(raised.value).startswith("data.import_path=")
    assert "\n" not in str(raised.value)


def test_missing_module_inside_the_imported_one_is_not_disguised(tmp_path, monkeypatch):
    (tmp_path / "own_module_with_gap.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        import_function("data.import_path", "own_module_with_gap:build")


def test_calls_and_looks_at_what_comes_back():
    assert call_imported("k", "fractions:Fraction", numbers.Number, 1, 2) == 0.5
    with pytest.raises(ConfigError, match=r"returned a float, not a decimal\.Decimal"):
        call_imported("k", "math:sqrt", decimal.Decimal, 4)
    with pytest.raises(ConfigError, match=r"cannot be called with \(int, num_classes=\)"):
        call_imported("k", "math:sqrt", float, 4, num_classes=3)


def test_an_error_of_the_function_itself_is_left_as_it_is():
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        call_imported("k", "math:sqrt", float, -1)
