import math

import pytest

from fsamlab.config import ConfigError
from fsamlab.import_path import import_function


def test_imports():
    assert import_function("data.import_path", "math:sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("math.sqrt", "form package.module:function"),
        ("no_such_package.x:f", "no module no_such_package"),
        ("math:no_such", "has no function no_such"),
        ("math:pi", "has no function pi"),
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
