"""What pyproject.toml says of the package is what the package needs and has."""

import ast
import re
import sys
from pathlib import Path

import pytest
from helpers import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTIONS = {  # of modules that are named otherwise
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
