"""Run directories: which there are, and what their own files say of them. Imports neither pandas nor torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fsamlab.config import ConfigError
from fsamlab.files import Damaged, read_json
from fsamlab.ownership import why_alive
from fsamlab.record import read_status

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is several times faster


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


def read_config(directory: Path) -> dict[str, Any]:
    """Return a run's config.yaml as nested dictionaries.

    Raises:
        Damaged: it holds something else.
    """
    path = directory / "config.yaml"
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise Damaged(f"{path} is no run's configuration: {type(e).__name__}: {e}") from e
    if not isinstance(config, dict):
        raise Damaged(f"{path} is no run's configuration: {type(config).__name__} in place of keys")
    return config


def current_status(directory: Path) -> dict[str, Any]:
    """Return status.json, with `lost` for a run marked running whose process is gone."""
    status = read_status(directory)
    if status["status"] != "running":
        return status
    owner = read_json(directory / "owner.json")
    age = time.time() - (directory / "owner.json").stat().st_mtime if owner else 0.0
    if owner is None or owner.get("released") or why_alive(owner, age) is None:
        return {
            **status,
            "status": "lost",
            "exception": "its process is gone without a word (killed, out of memory?)",
        }
    return status
