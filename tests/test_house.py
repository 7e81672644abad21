"""The floors of the house: which room may import from which."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.alone import ALONE
from support.house import Import, arrows, circles, floors, imports, modules, room
from support.runs import ROOT

MAY_IMPORT = {  # a room may import from the rooms that are named here, and from itself
    "storage": "",
    "seeding": "",
    "checks": "",
    "metrics": "",
    "quick_import": "",
    "ranks": "checks",
    "axes": "checks",
    "config": "checks axes metrics",
    "optim": "checks axes config",
    "models": "config storage",
    "task": "config metrics",
    "data": "config storage seeding task",
    "rundir": "config storage metrics",
    "terminal": "config rundir metrics",
    "diagnostics": "axes config seeding optim data task",
    "train": "ranks config seeding optim data diagnostics task metrics",
    "results": "axes config storage rundir terminal metrics",
    "figures": "results terminal metrics",
    "tracking": "config storage rundir results metrics",
    "sweep": "checks ranks quick_import metrics config storage rundir terminal results",
    "run": "ranks metrics config seeding optim models data rundir terminal diagnostics train tracking task",
    "report": "storage rundir terminal results figures sweep metrics",
    "command": "ranks checks metrics config optim storage models data rundir terminal results tracking sweep run"
    " report",
}
BACK_UP: dict[tuple[str, str], str] = {}
LIGHT = ("hydra", "omegaconf", "wandb", "submitit", "pandas", "rich", "matplotlib", "timm")
SRC = ROOT / "src"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOUND = imports(SRC)


def test_every_room_is_on_its_floor():
    assert {room(name) for name in modules(SRC) if name} == MAY_IMPORT.keys()
    wrong = [
        f"{one.by}, line {one.line}, imports {one.of} {one.how}"
        for (by, of), found in arrows(FOUND).items()
        for one in found
        if of not in MAY_IMPORT[by].split() and one.how != BACK_UP.get((by, of))
    ]
    assert wrong == []


def test_what_is_allowed_is_used_and_has_no_circle():
    allowed = {(by, of) for by, rooms in MAY_IMPORT.items() for of in rooms.split()}
    assert allowed | BACK_UP.keys() == arrows(FOUND).keys()
    assert circles(allowed) == []
    assert floors(MAY_IMPORT, allowed)[1] == []


def test_no_module_imports_in_a_circle():
    found = {(one.by, one.of) for one in FOUND if (room(one.by), room(one.of)) not in BACK_UP}
    assert circles((by, of) for by, of in found if by and of) == []


def test_the_page_of_the_architecture_has_every_room_above_the_rooms_that_it_imports_from():
    shown = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| `(\w+)(?:\.py)?` \|", PAGE, re.M)}
    assert shown.keys() == MAY_IMPORT.keys()
    assert [(by, of) for by, rooms in MAY_IMPORT.items() for of in rooms.split() if shown[by] <= shown[of]] == []


def test_the_page_of_the_architecture_names_files_that_exist():
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*|\w+\.py)`", PAGE)) - {"src/fsamlab/"}
    assert len(named) > 60
    assert [name for name in sorted(named) if not any((p / name).exists() for p in (ROOT, SRC / "fsamlab"))] == []


def test_circles_and_back_arrows_are_found():
    drawn = {("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}
    assert circles(drawn) == [["a", "b", "c"]]
    level, back = floors("abcd", drawn)
    assert len(back) == 1
    assert level["d"] == 1


def test_every_kind_of_import_is_seen(tmp_path):
    package = tmp_path / "fsamlab"
    for name in ("high", "low"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text("")
    (package / "low" / "leaf.py").write_text("")
    (package / "high" / "top.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fsamlab.low.leaf import X\n"
        "import fsamlab.low\n\ndef f():\n    from fsamlab.low import leaf\n"
    )
    assert imports(tmp_path) == [
        Import("high.top", "low.leaf", "for types", 3),
        Import("high.top", "low", "at once", 4),
        Import("high.top", "low.leaf", "when called", 7),
    ]


def test_what_other_loops_import_is_light():
    code = f"import sys, fsamlab.optim, fsamlab.diagnostics; print([m for m in {LIGHT} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.long
def test_optimizer_and_measurements_need_torch_and_numpy_alone():
    """As after `pip install --no-deps fsamlab`: every other installed package is hidden."""
    done = subprocess.run([sys.executable, ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "a step, 2 measurements; other packages: []"
