"""docs/adding_a_variant.md, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support.runs import ROOT

from fsamlab.axes import rules

PAGE = (ROOT / "docs" / "adding_a_variant.md").read_text(encoding="utf-8")
BLOCK = r":\n\n```\w+\n(.*?)```"
ABOVE = re.compile(r"[Ii]n `([\w/.]+)`, above `([^`]+)`" + BLOCK, re.DOTALL)
INSTEAD = re.compile(r"[Ii]n `([\w/.]+)`, instead of `([^`]+)`" + BLOCK, re.DOTALL)
NEW = re.compile(r"`(conf/optimizer/\w+\.yaml|my_sam\.py)`(?:, [\w ]+)?" + BLOCK, re.DOTALL)
COMMANDS = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def section(title):
    """Return the text below a heading."""
    (found,) = [text for text in PAGE.split("\n## ") if text.startswith(title)]
    return found


def places(text):
    """Return the places that a part of the page has its reader touch."""
    return [*ABOVE.findall(text), *INSTEAD.findall(text), *NEW.findall(text)]


def follow(root):
    """Do what the page says; return the names of the new variants."""
    for name, anchor, text in ABOVE.findall(PAGE):
        lines = (root / name).read_text().splitlines(keepends=True)
        (place,) = [i for i, line in enumerate(lines) if line.startswith(anchor)]
        (root / name).write_text("".join([*lines[:place], text, "\n\n", *lines[place:]]))
    for name, old, text in INSTEAD.findall(PAGE):
        source = (root / name).read_text()
        assert source.count(old) == 1
        (root / name).write_text(source.replace(old, text.strip()))
    for name, text in NEW.findall(PAGE):
        (root / name).write_text(text)
    return [re.sub(r".*/|\.yaml", "", name) for name, _ in NEW.findall(PAGE) if name.endswith(".yaml")]


def test_the_places_are_as_many_as_the_page_says():
    said = dict(re.findall(r"^\| ([\w ]+) \| (one|two|three): ", PAGE, re.MULTILINE))
    assert said == {
        "a combination of choices": "one",
        "a choice in a package of your own": "two",
        "a choice in fsamlab": "three",
    }
    numbers = {"one": 1, "two": 2, "three": 3}
    for title, what in {
        "A new combination": "a combination of choices",
        "A new idea in a package of your own": "a choice in a package of your own",
        "A new idea in fsamlab": "a choice in fsamlab",
    }.items():
        assert len(places(section(title))) == numbers[said[what]], title


def test_the_page_lists_every_choice_and_shows_one_on_each_axis():
    for axis, choices in rules.AXES.items():
        (row,) = re.findall(rf"^\|.*`optimizer\.{axis}`.*$", PAGE, re.MULTILINE)
        assert [f"`{name}`" for name in choices] == re.findall(r"`\w+`", row.split("|")[2])
        assert f"({rules.BASES[axis].__name__}):" in section("A new idea in a package of your own")
        assert re.search(rf"(optimizer\.)?{axis}[=:] ?my_sam:\w+", section("A new idea in a package of your own")), axis


CHECKS = """
import torch
from support.runs import build_trainer, compose_tiny
from fsamlab.config import ConfigError

class Silent:
    poll = boundary = lambda self: None
    stopping = lambda self: False
    row = lambda self, row: None

def weights(*overrides):
    trainer = build_trainer(compose_tiny(*overrides, "train.max_steps=3", "diagnostics=off"))
    trainer.fit(Silent())
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

base = weights("optimizer=sam_previous")
assert torch.equal(base, weights("optimizer=sam_previous"))
assert not torch.equal(base, weights("optimizer=sam_previous", "optimizer.shrink=0.3"))
assert torch.equal(weights("optimizer=sam_previous", "optimizer.shrink=0"), weights("optimizer=sam"))
assert torch.equal(weights("optimizer=sam_mean", "optimizer.parameters.share=1"), weights("optimizer=sam"))
assert not torch.equal(weights("optimizer=sam_mean"), weights("optimizer=sam"))
assert torch.equal(weights("optimizer=sam", "optimizer.when=my_sam:Late", "optimizer.parameters={first: 3}"),
                   weights("optimizer=sam", "optimizer.rho=0"))
for wrong in (("optimizer=sam", "optimizer.shrink=0.5"), ("optimizer=sam_previous", "optimizer.shrink=2"),
              ("optimizer=sam_previous", "optimizer.shrink=null")):
    try:
        compose_tiny(*wrong)
    except ConfigError as e:
        assert str(e).startswith("optimizer.shrink="), e
    else:
        raise AssertionError(wrong)
"""


@pytest.mark.long
def test_the_page(tmp_path):
    for name in ("src", "conf", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("launch.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    new = follow(tmp_path)
    assert new == ["asam_noise_ema", "sam_mean", "sam_previous"]
    paths = os.pathsep.join((str(tmp_path / "src"), str(tmp_path / "tests")))
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PATH": path}

    def shell(*words):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shell(sys.executable, "-c", CHECKS)
    commands = [line for block in COMMANDS.findall(PAGE) for line in block.splitlines()]
    assert len(commands) == 7
    for command in commands:
        shell("bash", "-ec", command)
    assert len(list((tmp_path / "runs" / "default").glob("*-s0-*/summary.json"))) == len(commands)
    found = shell(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/optim/test_sharpness_aware.py",
        "-k",
        " or ".join(new),
    )
    assert int(re.search(r"(\d+) passed", found)[1]) >= 2 * 6
