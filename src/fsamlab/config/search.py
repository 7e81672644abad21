"""Where Hydra looks for options: in the study folder's conf/ and in the options of fsamlab.

Hydra takes the first file of a name and ignores the others. An option of fsamlab keeps its name: a file of the user's
that has the name of an option of fsamlab, or of Hydra, is refused. So an option in a table of results always means the
same, and a new version of fsamlab replaces no option of a study without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery

from fsamlab.checks import ConfigError
from fsamlab.config.project import CONF, PROJECT_ROOT

OWN = PROJECT_ROOT / "conf"  # the same as CONF in a checkout
HYDRA = Path(hydra.__file__).parent / "conf"
MY_OWN = "local"  # the group of personal settings; fsamlab has no option there, but a checkout may


def add_own_options(path: ConfigSearchPath) -> None:
    """Let Hydra find the options of a study folder where it composes those of fsamlab."""
    if OWN == CONF or not OWN.is_dir():
        return
    for item in path.get_path():
        if item.provider == "main" and Path(str(item.path).removeprefix("file://")) == CONF:
            path.prepend("study", f"file://{OWN}", SearchPathQuery(provider="main", path=None))
            return


def check_names(search_paths: Iterable[Any] = ()) -> None:
    """Refuse files with options of the user's own that Hydra would ignore, because an option of fsamlab has the name.

    Args:
        search_paths: the values of `hydra.searchpath` on the command line, each a list of further places.

    Raises:
        ConfigError: names the file, and the file that Hydra would take.
    """
    earlier = [HYDRA, CONF]
    places = [] if OWN == CONF else [OWN]
    places += [place for paths in search_paths if isinstance(paths, list) for place in map(_directory, paths) if place]
    for place in places:
        for name in options_in(place):
            taken = next((e / name for e in earlier if (e / name).is_file() and e != place), None)
            if taken is not None and not (place == OWN and name.parts[0] == MY_OWN):
                key, option = str(name.parent), name.stem
                allowed = f"{key} has an option {option} already, in {taken}; give the file another name"
                raise ConfigError("option", place / name, allowed)
        earlier.append(place)


def options_in(directory: Path) -> Iterator[Path]:
    """Yield the files of all options below a directory, relative to the directory; none where it does not exist."""
    for folder, _, names in os.walk(directory, followlinks=True):  # conf/sweeps is a link
        for name in sorted(names):
            if name.endswith(".yaml"):
                yield Path(folder, name).relative_to(directory)


def _directory(place: Any) -> Path | None:
    """Return the directory that an entry of hydra.searchpath names; None for an entry that Hydra itself refuses."""
    scheme, _, rest = str(place).rpartition("://")
    if scheme == "pkg":
        spec = find_spec(rest.replace("/", "."))
        return Path(next(iter(spec.submodule_search_locations or []), "")) if spec else None
    return Path(rest)
