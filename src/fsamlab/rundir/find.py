"""Run directories: which there are, and what their own files say of them. Imports neither pandas nor torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fsamlab.config import ConfigError
from fsamlab.config.identity import NEUTRAL
from fsamlab.rundir.ownership import read_owner, why_alive
from fsamlab.rundir.reading import read_overrides, read_status
from fsamlab.storage.reading import Damaged


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories at or one level below `paths`, sorted."""
    found: set[Path] = set()
    for path in paths:
        if (path / "config.yaml").exists():
            found.add(path)
        else:
            found.update(p.parent for p in path.glob("*/config.yaml"))
    return sorted(found)


def runs_at(paths: Sequence[Path]) -> list[Path]:
    """Return what :func:`find_runs` finds, at least one.

    Raises:
        ConfigError: a path does not exist, or there is no run directory at any.
    """
    check_exist(paths)
    found = find_runs(paths)
    if not found:
        raise no_runs(paths, "no run directory (one with a config.yaml) there")
    return found


def check_exist(paths: Iterable[Path]) -> None:
    """Refuse a mistyped path among others; what merely holds no runs, as in `runs/*`, is none.

    Raises:
        ConfigError: a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise no_runs([path], "does not exist")


def no_runs(paths: Sequence[Path], why: str) -> ConfigError:
    """Return the error of a command that was given no runs; it names a sweep below the paths, if there is one."""
    below = next((str(found.parents[1]) for path in paths for found in sorted(path.glob("*/*/config.yaml"))), None)
    example = f", such as {below}" if below else ""
    return ConfigError(
        "RUNS", " ".join(map(str, paths)) or "none", f"{why}; give a run's or a sweep's directory{example}"
    )


def current_status(directory: Path) -> dict[str, Any]:
    """Return status.json, with `lost` for a run marked running whose process is gone, `damaged` where it is damaged.

    One damaged run must not hide the others: whoever looks at runs reads their states here, and `exception` names the
    file and says what to do.
    """
    try:
        status = read_status(directory)
        alive = status["status"] == "running" and has_living_owner(directory)
    except Damaged as e:
        return {"status": "damaged", "exception": str(e)}
    if status["status"] != "running" or alive:
        return status
    return {**status, "status": "lost", "exception": "its process is gone without a word (killed, out of memory?)"}


def why_unfinished(status: dict[str, Any]) -> str:
    """Return in a few words why a run has not finished, from its :func:`current_status`."""
    if status.get("exception"):
        return str(status["exception"])
    step = f"step {status['step']}" if "step" in status else "no step yet"
    if status["status"] == "running":
        return f"still running ({step}) in process {status.get('pid')} on {status.get('host')}"
    return "did not run" if status["status"] == "queued" else f"stopped at {step}; see its run.log"


T = TypeVar("T")


def read_whole(read: Callable[[Path], T], directory: Path, damage: list[str]) -> T | None:
    """Return what `read` finds in a run directory; None where a file is damaged, and then its line in `damage`."""
    try:
        return read(directory)
    except Damaged as e:
        damage.append(str(e))
        return None


def has_living_owner(directory: Path) -> bool:
    """Return whether a process writes into a run directory, as far as this machine can know.

    Raises:
        Damaged: owner.json cannot be read.
    """
    owner = read_owner(directory)
    if owner is None or owner.get("released"):
        return False
    try:
        age = time.time() - (directory / "owner.json").stat().st_mtime
    except FileNotFoundError:
        return False
    return why_alive(owner, age) is not None


GROUPS = ("optimizer", "model", "data")
IN_NAMES = frozenset({"seed", *GROUPS, *(f"{group}.name" for group in GROUPS)})


def settings_of(directories: Sequence[Path]) -> list[str]:
    """Return :func:`what_varies` of runs that have started; a damaged file says nothing."""
    return what_varies([read_whole(read_overrides, directory, []) or [] for directory in directories])


def what_varies(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job the overrides in which jobs differ, `rho=0.1 width=16`, without what a run's name says."""
    given = [dict(word.lstrip("+").split("=", 1) for word in words if "=" in word) for words in jobs]
    keys = [key for key in dict.fromkeys(k for one in given for k in one) if key not in IN_NAMES]
    varied = [
        key
        for key in keys
        if key.split(".")[0] not in (*NEUTRAL, "hydra")
        and key not in NEUTRAL
        and len({one.get(key) for one in given}) > 1
    ]
    last = Counter(key.rpartition(".")[2] for key in varied)
    short = {key: name if last[name := key.rpartition(".")[2]] == 1 else key for key in varied}
    return [" ".join(f"{short[key]}={one[key]}" for key in varied if key in one) for one in given]
