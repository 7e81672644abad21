"""What pyproject.toml says of the package is what the package needs and has."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version
from support.runs import ROOT

import fsamlab

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTIONS = {  # of modules that are named otherwise
    "PIL": "pillow",
    "hydra": "hydra-core",
    "hydra_plugins": "hydra-submitit-launcher",
    "sklearn": "scikit-learn",
    "wandb_workspaces": "wandb-workspaces",
    "yaml": "pyyaml",
}
BROUGHT = {"huggingface_hub"}  # by timm, for which alone it is used


def imported():
    """The top-level modules that the package imports, its own and the standard library's left out."""
    found = set()
    for path in [*(ROOT / "src").rglob("*.py"), ROOT / "launch.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"fsamlab"}


def test_the_dependencies_are_what_is_imported():
    declared = {re.match(r"[\w-]+", text)[0] for text in PROJECT["project"]["dependencies"]}
    assert declared == {DISTRIBUTIONS.get(name, name) for name in imported() - BROUGHT}


def test_the_lowest_versions_are_stated_and_installed_by_ci():
    """A bound that nobody has ever installed is a guess."""
    done = subprocess.run([sys.executable, ".ci/lowest.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    pins = dict(line.split("==") for line in done.stdout.splitlines())
    declared = {re.match(r"[\w-]+", text)[0] for text in PROJECT["project"]["dependencies"]}
    assert set(pins) == declared - {"torch", "torchvision"}
    assert pins["submitit"] == "1.5.4"  # 1.5.0 fails with current setuptools
    for name, pin in pins.items():
        assert Version(pin) <= Version(metadata.version(name)), name
    assert ".ci/lowest.py" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_all_files_of_the_package_are_in_a_wheel():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["fsamlab"]
    package = ROOT / "src" / "fsamlab"
    included = {path for pattern in patterns for path in package.glob(pattern)}
    files = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert files == included
    assert package / "report" / "assets" / "page.html" in included


def test_every_directory_of_modules_is_a_package():
    """setuptools leaves a folder without __init__.py out where it is not a namespace of its own."""
    for path in (ROOT / "src" / "fsamlab").rglob("*.py"):
        assert Path(path.parent, "__init__.py").exists(), path


def test_the_commands_exist():
    module, _, name = PROJECT["project"]["scripts"]["fsamlab"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fsamlab.__version__"}
    assert metadata.version("fsamlab") == fsamlab.__version__


def test_the_changelog_names_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## \[([^]]+)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert found[0] == ("Unreleased", "")
    versions = [Version(version) for version, date in found[1:] if date]
    assert len(versions) == len(found) - 1
    assert versions == sorted(versions, reverse=True)
    assert versions[0] == Version(fsamlab.__version__)
    assert set(re.findall(r"^### (\w+)", text, re.M)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }
