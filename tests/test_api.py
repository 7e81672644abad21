"""docs/api.md: the page names what the packages offer, in both directions, and its examples run."""

import doctest
import importlib
import json
import re

import pytest
from support.runs import ROOT

TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (fsamlab\S*)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))
DOTTED = "fsamlab."


def named(text):
    """The names in the first column of a section's tables."""
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.M)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


def test_a_page_of_every_public_package():
    assert len(SECTIONS) == 9


@pytest.mark.parametrize("module", SECTIONS)
def test_page_and_package_name_the_same(module):
    names = [name for name in named(SECTIONS[module]) if not name.startswith(DOTTED)]
    package = importlib.import_module(module)
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(package.__all__)
    for name in names:
        assert hasattr(package, name)


def test_docs_readme_and_notebooks_import_nothing_that_the_page_does_not_name():
    found = [(module, name) for module, text in SECTIONS.items() for name in named(text)]
    known = {name if name.startswith(DOTTED) else f"{module}.{name}" for module, name in found} | set(SECTIONS)
    for name in known:
        module, _, member = name.rpartition(".")
        assert name in SECTIONS or hasattr(importlib.import_module(module), member), name
    texts = [path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        texts += ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    used = set()
    for module, members in re.findall(r"^(?:>>> )?from (fsamlab[\w.]*) import ([\w, ]+)", "\n".join(texts), re.M):
        used |= {f"{module}.{member.strip()}" for member in members.split(",")}
    assert len(used) > 15
    assert used - known == set()


def test_the_examples_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(TEXT, {}, "api.md", "docs/api.md", 0)
    assert len(test.examples) > 40
    said = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
