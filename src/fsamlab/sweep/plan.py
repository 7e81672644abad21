"""What a launch is going to run, and its record `<sweep>/launches/<n>.json`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsamlab.config import Config
from fsamlab.environment import git_version
from fsamlab.files import write_json
from fsamlab.identity import config_hash, run_id
from fsamlab.record import is_finished, now


@dataclass(frozen=True)
class JobPlan:
    """One job of a launch.

    Attributes:
        overrides: what Hydra composes it from.
        directory: its run directory, absolute.
        run_id, config_hash: of the configuration as it was composed at launch.
    """

    overrides: list[str]
    directory: Path
    run_id: str
    config_hash: str

    @classmethod
    def of(cls, config: Config, overrides: list[str], directory: Path) -> JobPlan:
        """Plan a composed and checked configuration."""
        return cls(overrides, directory, run_id(config), config_hash(config))

    @property
    def finished(self) -> bool:
        """Whether the run has finished before."""
        return is_finished(self.directory)


def write_launch(sweep_dir: Path, plans: list[JobPlan], argv: list[str], project_root: Path) -> Path:
    """Write the next free `launches/<n>.json`: command line, code version, every job; return its path."""
    folder = sweep_dir / "launches"
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[dict[str, Any]] = [{**asdict(p), "directory": str(p.directory)} for p in plans]
    entry = {"time": now(), "command": argv, "git": git_version(project_root), "jobs": jobs}
    n = 1 + max((int(p.stem) for p in folder.glob("*.json") if p.stem.isdigit()), default=0)
    while True:
        path = folder / f"{n}.json"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # another launch may take the number meanwhile
        except FileExistsError:
            n += 1
            continue
        write_json(path, entry)
        return path
