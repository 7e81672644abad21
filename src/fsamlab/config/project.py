"""The project's directory: code, conf/, runs and the record of a run all belong to one.

The package knows the directory from its own place in `<project>/src`. A copy of the package elsewhere
(`pip install .`) is of use inside a project whose src/ it is a copy of.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fsamlab.config import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def project_of(directory: Path) -> Path | None:
    """Return the project that a directory lies in, None where it lies in none."""
    for place in (directory, *directory.parents):
        if (place / "conf" / "config.yaml").is_file() and (place / "src" / "fsamlab").is_dir():
            return place
    return None


def _here() -> Path | None:
    try:
        return project_of(Path.cwd())
    except OSError:  # a working directory that was removed
        return None


def _root() -> Path:
    own = PACKAGE.parents[1]
    return own if project_of(own) == own else _here() or own


PROJECT_ROOT = _root()


def check_project(directory: Path | None = None, what: str = "this directory") -> None:
    """Refuse to work with the code of one project and the files of another.

    Args:
        directory: what is to be used lies there; None is the working directory, which may lie in no project.
        what: the same in words.

    Raises:
        ConfigError: there is no project, or it is another than that of the code that runs.
    """
    if project_of(PROJECT_ROOT) != PROJECT_ROOT:
        allowed = "is a copy without conf/; work in the project's directory, or `pip install -e` it"
        raise ConfigError("fsamlab", PACKAGE, allowed)
    there = _here() if directory is None else project_of(directory)
    if there is not None and not there.samefile(PROJECT_ROOT):
        allowed = f"{what} belongs to {there}, the installed fsamlab does not: `pip install -e {there}` changes that"
        raise ConfigError("fsamlab", PACKAGE, allowed)
    source = PROJECT_ROOT / "src"
    if source / "fsamlab" != PACKAGE and source_digest(PACKAGE) != source_digest(source / "fsamlab"):
        allowed = f"is another code than {source / 'fsamlab'}: `pip install -e {PROJECT_ROOT}` uses that one"
        raise ConfigError("fsamlab", PACKAGE, allowed)


def source_digest(directory: Path) -> str:
    """Return a digest of the Python files below a directory: names and content."""
    content = hashlib.sha256()
    for path in sorted(directory.rglob("*.py")):
        content.update(f"{path.relative_to(directory)}\0".encode() + path.read_bytes() + b"\0")
    return content.hexdigest()
