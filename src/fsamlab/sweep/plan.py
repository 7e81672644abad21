"""What a launch is going to run, and its record in `<sweep>/launches/`.

`<n>.json` names command, code version and jobs; `<n>.configs.jsonl` holds the composed configurations, a line for
each job; `<n>.diff` is what was not committed. Status and resubmission work from them without a living launcher.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fsamlab.config import Config, to_plain
from fsamlab.environment import uncommitted
from fsamlab.files import read_json, write_atomic, write_json
from fsamlab.identity import config_hash, run_id
from fsamlab.record import is_finished, now


@dataclass(frozen=True)
class JobPlan:
    """One job of a launch.

    Attributes:
        overrides: what Hydra composed it from.
        directory: its run directory, absolute.
        run_id, config_hash: of the configuration as it was composed at launch.
        config: the configuration, plain.
    """

    overrides: list[str]
    directory: Path
    run_id: str
    config_hash: str
    config: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, config: Config, overrides: list[str], directory: Path) -> JobPlan:
        """Plan a composed and checked configuration."""
        return cls(overrides, directory, run_id(config), config_hash(config), to_plain(config))

    @property
    def finished(self) -> bool:
        """Whether the run has finished before."""
        return is_finished(self.directory)


@dataclass(frozen=True)
class Launch:
    """One launch as its record tells it; `jobs` are the record's entries, with the configurations."""

    path: Path
    entry: dict[str, Any]

    @property
    def plans(self) -> list[JobPlan]:
        """The jobs, with the configurations they were launched with."""
        lines = self.path.with_suffix(".configs.jsonl").read_text(encoding="utf-8").splitlines()
        return [
            JobPlan(job["overrides"], Path(job["directory"]), job["run_id"], job["config_hash"], json.loads(line))
            for job, line in zip(self.entry["jobs"], lines)
        ]


def write_launch(
    sweep_dir: Path,
    plans: list[JobPlan],
    argv: list[str],
    project_root: Path,
    code: dict[str, Any],
    launcher: str | None = None,
    hydra_overrides: Iterable[str] = (),
) -> Path:
    """Write the record of a launch under the next free number; return the path of its `<n>.json`."""
    folder = sweep_dir / "launches"
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[dict[str, Any]] = []
    for p in plans:
        job = {k: v for k, v in asdict(p).items() if k != "config"}
        jobs.append({**job, "directory": str(p.directory), "slurm_job_id": None})
    entry = {
        "time": now(),
        "command": argv,
        "git": code,
        "launcher": launcher,
        "hydra_overrides": list(hydra_overrides),
        "jobs": jobs,
    }
    n = 1 + max((int(p.stem) for p in folder.glob("*.json") if p.stem.isdigit()), default=0)
    while True:
        path = folder / f"{n}.json"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # another launch may take the number meanwhile
        except FileExistsError:
            n += 1
            continue
        break
    write_atomic(path.with_suffix(".configs.jsonl"), "".join(json.dumps(p.config) + "\n" for p in plans))
    if code["dirty"]:
        write_atomic(path.with_suffix(".diff"), uncommitted(project_root))
    write_json(path, entry)
    return path


def add_job_ids(path: Path, ids: dict[Path, str]) -> None:
    """Add the SLURM job ids of a launch's run directories to its record."""
    entry = read_json(path)
    assert entry is not None
    for job in entry["jobs"]:
        job["slurm_job_id"] = ids.get(Path(job["directory"]), job["slurm_job_id"])
    write_json(path, entry)


def read_launches(sweep_dir: Path) -> list[Launch]:
    """Return the launches of a sweep, oldest first; one whose record is being written just now is left out."""
    paths = sorted((p for p in (sweep_dir / "launches").glob("*.json") if p.stem.isdigit()), key=lambda p: int(p.stem))
    return [Launch(p, json.loads(text)) for p in paths if (text := p.read_text(encoding="utf-8"))]
