"""The project: the one directory that holds a user's own options, the runs, and the code beside launch.py.

A project is one of two things:

- a checkout of fsamlab. conf/, sweeps/, launch.py and the code in src/ lie together.
- a study folder, made by `fsamlab init`. It holds launch.py, options and sweeps of the user's own, and runs/; the code
  and the options of fsamlab are those of the installed package.

One directory decides for everything. To use the code of one checkout with the files of another is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

from fsamlab.checks import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = PACKAGE / "shipped"  # launch.py and conf/ in an installed wheel; setup.py puts them there
STUDY = ".fsamlab-study"  # the file that makes a directory a study folder
LAYOUT = 1  # of a study folder; a larger number means that this version of fsamlab is too old for the folder
VARIABLE = "FSAMLAB_STUDY"  # names the study folder to the jobs of a launch, wherever these start


def is_checkout(directory: Path) -> bool:
    """Return whether a directory is a checkout of fsamlab."""
    return (directory / "conf" / "config.yaml").is_file() and (directory / "src" / "fsamlab").is_dir()


def is_study(directory: Path) -> bool:
    """Return whether a directory is a study folder."""
    return (directory / STUDY).is_file()


def project_of(directory: Path) -> Path | None:
    """Return the nearest project that a directory lies in; None where the directory lies in no project."""
    for place in (directory, *directory.parents):
        if is_study(place) or is_checkout(place):
            return place
    return None


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # a working directory that was removed
        return None


def _here() -> Path | None:
    place = _working_directory()
    return None if place is None else project_of(place)


def _candidates() -> Iterator[Path | None]:
    """Yield the projects of the running script, of the launch that started this job, and of the working directory."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None:
        beside = Path(script).resolve().parent
        yield beside if project_of(beside) == beside else None  # `fsamlab` itself may lie in a study's .venv/bin
    yield project_of(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None
    yield _here()


def _root() -> Path:
    own = PACKAGE.parents[1]
    if not is_checkout(own):
        return next(filter(None, _candidates()), None) or _working_directory() or own
    # The code of a checkout works in this checkout and in study folders; check_project refuses any other place.
    return next((found for found in _candidates() if found and (found == own or is_study(found))), own)


PROJECT_ROOT = _root()


def _home() -> Path:
    for place in (PROJECT_ROOT, PACKAGE.parents[1]):
        if is_checkout(place):
            return place
    return SHIPPED


HOME = _home()  # holds the launch.py and the conf/ of fsamlab itself
CONF = HOME / "conf"


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
        ConfigError: there is no project, the code that runs belongs to another project, or the study folder was made by
            a later version of fsamlab.
    """
    if not CONF.is_dir():
        allowed = "is a copy without conf/; work in the project's directory, or `pip install -e` it"
        raise ConfigError("fsamlab", PACKAGE, allowed)
    if project_of(PROJECT_ROOT) != PROJECT_ROOT:
        allowed = "lies in no study folder; `fsamlab init DIR` makes one, and the commands work inside DIR"
        raise ConfigError("directory", PROJECT_ROOT, allowed)
    there = _here() if directory is None else project_of(directory)
    if there is not None and not there.samefile(PROJECT_ROOT):
        if is_study(there) or is_study(PROJECT_ROOT):
            raise ConfigError("directory", there, f"{what} belongs to it, but {PROJECT_ROOT} is in use; work in one")
        allowed = (
            f"{what} belongs to {there}, but the installed fsamlab does not: `pip install -e {there}` changes that"
        )
        raise ConfigError("fsamlab", PACKAGE, allowed)
    if is_study(PROJECT_ROOT):
        _check_layout(PROJECT_ROOT / STUDY)
        return
    source = PROJECT_ROOT / "src"
    if source / "fsamlab" != PACKAGE and source_digest(PACKAGE) != source_digest(source / "fsamlab"):
        allowed = f"differs from {source / 'fsamlab'}: `pip install -e {PROJECT_ROOT}` installs the latter"
        raise ConfigError("fsamlab", PACKAGE, allowed)


def _check_layout(path: Path) -> None:
    """Refuse a study folder that this version of fsamlab cannot use."""
    try:
        layout = json.loads(path.read_text(encoding="utf-8"))["layout"]
    except (OSError, ValueError, TypeError, KeyError):
        layout = None
    if not isinstance(layout, int) or layout < 1:
        raise ConfigError("study", path, f'is damaged; it must hold {{"layout": {LAYOUT}}}')
    if layout > LAYOUT:
        allowed = f"has layout {layout}, and this fsamlab knows layouts up to {LAYOUT}: `pip install -U fsamlab`"
        raise ConfigError("study", path, allowed)


def name_to_jobs() -> None:
    """Name a study folder to the jobs that this process starts: such a job may start in another directory."""
    if is_study(PROJECT_ROOT):
        os.environ[VARIABLE] = str(PROJECT_ROOT)


def source_digest(directory: Path) -> str:
    """Return a digest of the names and contents of the Python files below a package, without the shipped ones."""
    return _digest(
        {p.relative_to(directory): p for p in directory.rglob("*.py") if directory / "shipped" not in p.parents}
    )


def code_digest() -> str:
    """Return a digest of the code that results depend on; a wheel has the digest of the src/ that it was built from."""
    src = PACKAGE.parent
    if is_checkout(src.parent):
        paths = list(src.rglob("*.py"))
    else:
        paths = [p for p in PACKAGE.rglob("*.py") if SHIPPED not in p.parents]
        paths += (src / "hydra_plugins" / "fsamlab_plugins").rglob("*.py")
    return _digest({PurePath("src", p.relative_to(src)): p for p in paths})


def _digest(files: dict[PurePath, Path] | dict[Path, Path]) -> str:
    content = hashlib.sha256()
    for name, path in sorted(files.items()):
        content.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return content.hexdigest()
