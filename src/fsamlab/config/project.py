"""The project's directory, which holds code, conf/ and runs.

The package finds the directory from its own place in `<project>/src`. A copy of the package elsewhere (`pip install .`)
works only inside a project whose src/ is equal to the copy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fsamlab.checks import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def project_of(directory: Path) -> Path | None:
    """Return the project that a directory lies in; None where the directory lies in no project."""
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


def in_project(path: str) -> Path:
    """Return the path that a setting names: below the project unless the path is absolute, `~` for the home."""
    return PROJECT_ROOT / Path(path).expanduser()


def check_project(directory: Path | None = None, what: str = "this directory") -> None:
    """Refuse to use the code of one project with the files of another project.

    Args:
        directory: the directory whose files are used. None means the working directory, which need not lie in a
            project.
        what: words for this directory, for the message.

    Raises:
        ConfigError: there is no project, or the code that runs belongs to another project.
    """
    if project_of(PROJECT_ROOT) != PROJECT_ROOT:
        allowed = "is a copy without conf/; work in the project's directory, or `pip install -e` it"
        raise ConfigError("fsamlab", PACKAGE, allowed)
    there = _here() if directory is None else project_of(directory)
    if there is not None and not there.samefile(PROJECT_ROOT):
        allowed = (
            f"{what} belongs to {there}, but the installed fsamlab does not: `pip install -e {there}` changes that"
        )
        raise ConfigError("fsamlab", PACKAGE, allowed)
    source = PROJECT_ROOT / "src"
    if source / "fsamlab" != PACKAGE and source_digest(PACKAGE) != source_digest(source / "fsamlab"):
        allowed = f"differs from {source / 'fsamlab'}: `pip install -e {PROJECT_ROOT}` installs the latter"
        raise ConfigError("fsamlab", PACKAGE, allowed)


def source_digest(directory: Path) -> str:
    """Return a digest of the names and contents of all Python files below a directory."""
    content = hashlib.sha256()
    for path in sorted(directory.rglob("*.py")):
        content.update(f"{path.relative_to(directory)}\0".encode() + path.read_bytes() + b"\0")
    return content.hexdigest()
