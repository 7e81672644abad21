import decimal
import math
import numbers
import os
import shutil
import subprocess
import sys

import pytest
from support.runs import ROOT

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


def test_an_error_inside_the_imported_module_is_not_taken_for_a_wrong_path(tmp_path, monkeypatch):
    (tmp_path / "own_module_without_hint.py").write_text(
        "from dataclasses import dataclass, field\n\n@dataclass\nclass C:\n    share = field(default=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match="'share' is a field but has no type annotation"):
        import_function("optimizer.descent", "own_module_without_hint:C")


def test_calls_and_looks_at_what_comes_back():
    assert call_imported("k", "fractions:Fraction", numbers.Number, 1, 2) == 0.5
    with pytest.raises(ConfigError, match=r"returned a float, not a decimal\.Decimal"):
        call_imported("k", "math:sqrt", decimal.Decimal, 4)
    with pytest.raises(ConfigError, match=r"cannot be called with \(int, num_classes=\)"):
        call_imported("k", "math:sqrt", float, 4, num_classes=3)


def test_an_error_of_the_function_itself_is_left_as_it_is():
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        call_imported("k", "math:sqrt", float, -1)


def test_a_file_beside_launch_py_is_found_by_every_command(tmp_path):
    """`fsamlab measure` and a job on a cluster find what `python launch.py` finds in its own directory."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / "beside.py").write_text("def build(): return 7\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('an installed module is hidden')\n")
    code = (
        "from fsamlab.config.import_path import import_function\n"
        "from fsamlab.rundir.inputs import source_of\n"
        "print(source_of('beside').name)\n"
        "print(import_function('k', 'beside:build')(), import_function('k', 'colorsys:rgb_to_hls')(0, 0, 0))"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "beside.py\n7 (0.0, 0.0, 0.0)\n", done.stderr
