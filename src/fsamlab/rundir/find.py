"""Run directories: finding them, and the state of each by its own files. Imports neither pandas nor torch."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from fsamlab.config import ConfigError
from fsamlab.config.identity import NEUTRAL
from fsamlab.rundir.ownership import read_owner, why_alive
from fsamlab.rundir.reading import read_overrides, read_status
from fsamlab.storage.reading import Damaged


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories at `paths` or one level below, sorted."""
    found: set[Path] = set()
    for path in paths:
        if (path / "config.yaml").exists():
            found.add(path)
        else:
            found.update(path / name for name in _names_of_runs(path))
    return sorted(found, key=lambda path: path.parts)


def _names_of_runs(path: Path) -> Iterator[str]:
    """Yield the names of the run directories in a directory; none where it is no directory or cannot be read."""
    with suppress(NotADirectoryError, FileNotFoundError, PermissionError), os.scandir(path) as entries:
        for entry in entries:
            # strings, not paths: a sweep may have ten thousand runs
            if os.path.exists(f"{entry.path}/config.yaml"):
                yield entry.name


def runs_at(paths: Sequence[Path]) -> list[Path]:
    """Return the run directories that :func:`find_runs` finds, at least one.

    Raises:
        ConfigError: a path does not exist, or no path has a run directory.
    """
    check_exist(paths)
    found = find_runs(paths)
    if not found:
        raise no_runs(paths, "no run directory there (a run directory has a config.yaml)")
    return found


def check_exist(paths: Iterable[Path]) -> None:
    """Refuse a path that does not exist. A directory without runs is not refused: `runs/*` may match some.

    Raises:
        ConfigError: a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise no_runs([path], "does not exist")


def no_runs(paths: Sequence[Path], why: str) -> ConfigError:
    """Return the error for a command without runs; the message names a sweep below the paths, if there is one."""
    below = next((str(found.parents[1]) for path in paths for found in sorted(path.glob("*/*/config.yaml"))), None)
    example = f", such as {below}, or {Path(below).parent}/* for the runs of all directories there" if below else ""
    return ConfigError(
        "RUNS", " ".join(map(str, paths)) or "none", f"{why}; give a run's or a sweep's directory{example}"
    )


def current_status(directory: Path) -> dict[str, Any]:
    """Return the content of status.json, corrected by what is known now.

    The status is `lost` where the file says running and the process is gone, and `damaged` where a file is damaged;
    then `exception` names the file and the remedy. Damage raises nothing here, because one damaged run must not hide
    the other runs of a sweep.
    """
    try:
        status = read_status(directory)
        alive = status["status"] == "running" and has_living_owner(directory)
    except Damaged as e:
        return {"status": "damaged", "exception": str(e)}
    if status["status"] != "running" or alive:
        return status
    return {**status, "status": "lost", "exception": "its process is gone and left no reason (killed, out of memory?)"}


def why_unfinished(status: dict[str, Any]) -> str:
    """Return in a few words why a run has not finished, from the result of :func:`current_status`."""
    if status.get("exception"):
        return str(status["exception"])
    step = f"step {status['step']}" if "step" in status else "no step yet"
    if status["status"] == "running":
        return f"still running ({step}) in process {status.get('pid')} on {status.get('host')}"
    return "did not run" if status["status"] == "queued" else f"stopped at {step}; see its run.log"


T = TypeVar("T")


def read_whole(read: Callable[[Path], T], directory: Path, damage: list[str]) -> T | None:
    """Return the result of `read` for a run directory; for a damaged file None, with the message in `damage`."""
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
    """Return the result of :func:`what_varies` for runs that have started; a damaged run counts as one without
    overrides.
    """
    return what_varies([read_whole(read_overrides, directory, []) or [] for directory in directories])


def what_varies(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job the overrides in which the jobs differ and which a run's name does not show: `rho=0.1`."""
    given = [dict(word.lstrip("+").split("=", 1) for word in words if "=" in word) for words in jobs]
    keys = [key for key in dict.fromkeys(k for one in given for k in one) if key not in IN_NAMES]
    # Neutral keys change no weights: runs that differ in num_workers alone are one setting.
    varied = [
        key
        for key in keys
        if key.split(".")[0] not in (*NEUTRAL, "hydra")
        and key not in NEUTRAL
        and len({one.get(key) for one in given}) > 1
    ]
    # A key is shortened to its last part unless two varied keys share that part, as model.name and tracker.name do.
    last = Counter(key.rpartition(".")[2] for key in varied)
    short = {key: name if last[name := key.rpartition(".")[2]] == 1 else key for key in varied}
    return [" ".join(f"{short[key]}={as_typed(one[key])}" for key in varied if key in one) for one in given]


def as_typed(value: str) -> str:
    """Return the value of an override as it was typed: Hydra records `my_tasks\\:focal` for `my_tasks:focal`."""
    return re.sub(r"\\(.)", r"\1", value) if "\\" in value else value
