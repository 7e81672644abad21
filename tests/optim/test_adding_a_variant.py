"""docs/adding_a_variant.md, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support.runs import ROOT

PAGE = (ROOT / "docs" / "adding_a_variant.md").read_text()
BLOCK = r":\n\n```\w+\n(.*?)```"
ABOVE = re.compile(r"[Ii]n `([\w/.]+)`, above `([^`]+)`" + BLOCK, re.DOTALL)
INSTEAD = re.compile(r"[Ii]n `([\w/.]+)`, instead of `([^`]+)`" + BLOCK, re.DOTALL)
NEW = re.compile(r"`(conf/optimizer/\w+\.yaml)`(?:, [\w ]+)?" + BLOCK, re.DOTALL)


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
    return [re.sub(r".*/|\.yaml", "", name) for name, _ in NEW.findall(PAGE)]


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
    assert len(ABOVE.findall(PAGE)) == 3
    assert len(INSTEAD.findall(PAGE)) == 2
    new = follow(tmp_path)
    assert new == ["sam_noise_ema", "sam_previous"]
    paths = os.pathsep.join((str(tmp_path / "src"), str(tmp_path / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-c", CHECKS)
    found = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/optim/test_sharpness_aware.py", "-k", " or ".join(new)
    )
    assert int(re.search(r"(\d+) passed", found)[1]) >= 2 * 6
