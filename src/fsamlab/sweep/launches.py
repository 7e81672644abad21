"""The record of each launch of a sweep, in `<sweep>/launches/`: written, and read again.

`<n>.json` names command, code version and jobs; `<n>.configs.jsonl` holds the composed configurations, one line for
each job; `<n>.diff` holds the changes that were not committed; `<n>.launcher/` exists while the launcher of a local
sweep lives. Status and resubmission read these files and need no living launcher. Directories in a record are relative
to the directory of the sweep, so that a sweep can be moved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsamlab.config import ConfigError, Sections, from_plain
from fsamlab.config.identity import run_id
from fsamlab.rundir.environment import uncommitted
from fsamlab.rundir.find import has_living_owner
from fsamlab.rundir.reading import read_config
from fsamlab.rundir.record import now
from fsamlab.storage.reading import Damaged, damaged, misfit, read_bytes, read_json
from fsamlab.storage.writing import write_atomic, write_json
from fsamlab.sweep.plan import JobPlan

LAUNCH = {  # keys and types of <n>.json
    **{"time": str, "command": [str], "launcher": str | None, "hydra_overrides": [str]},
    **{"git": {str: str | bool | None}, "sweep_dir": str, "cluster": str | None, "jobs": [dict]},
}
JOB = {"overrides": [str], "directory": str, "run_id": str, "config_hash": str, "slurm_job_id": str | None}


@dataclass(frozen=True)
class RecordedJob:
    """One job as a launch record names it.

    Attributes:
        directory: the run directory, below the directory of the sweep where the sweep lies now.
        overrides, run_id, config_hash: as in :class:`JobPlan`.
        slurm_job_id: `123` or `123_4`; None for a local run, and for a run that this launch did not submit.
    """

    directory: Path
    overrides: list[str]
    run_id: str
    config_hash: str
    slurm_job_id: str | None


@dataclass(frozen=True)
class Launch:
    """One launch as its record describes it; `entry` is the content of `<n>.json`."""

    path: Path
    entry: dict[str, Any]

    @property
    def number(self) -> int:
        """The launch's number, from 1."""
        return int(self.path.stem)

    @property
    def sweep_dir(self) -> Path:
        """The sweep that holds the record."""
        return self.path.parents[1]

    @property
    def jobs(self) -> list[RecordedJob]:
        """The jobs, in the order of the launch."""
        found, sweep_dir = [], self.sweep_dir
        for job in self.entry["jobs"]:
            relative = job["directory"]
            if relative.startswith("/"):  # an older record: where the sweep lay when it was launched
                relative = Path(relative).name
            hash_, slurm = job.get("config_hash", ""), job.get("slurm_job_id")
            found.append(RecordedJob(sweep_dir / relative, job["overrides"], job["run_id"], hash_, slurm))
        return found

    @property
    def is_of_a_copied_sweep(self) -> bool:
        """Whether this sweep is a copy of a sweep that still exists: the jobs of the launch write there, not here."""
        absolute = (Path(job["directory"]).parent for job in self.entry["jobs"] if job["directory"].startswith("/"))
        before = Path(self.entry["sweep_dir"]) if "sweep_dir" in self.entry else next(absolute, self.sweep_dir)
        try:
            return not before.samefile(self.sweep_dir)
        except OSError:  # moved, or seen under another path from here
            return False

    @property
    def cluster(self) -> str | None:
        """The name of the SLURM cluster that got the jobs; None if the record has no name."""
        name = self.entry.get("cluster")
        return str(name) if name else None

    @property
    def launcher_directory(self) -> Path:
        """The directory in which the launcher of a local sweep shows that the launcher lives."""
        return self.path.with_suffix(".launcher")

    @property
    def launcher_lives(self) -> bool:
        """Whether the process that starts the jobs one after another still lives."""
        try:
            return has_living_owner(self.launcher_directory) and not self.is_of_a_copied_sweep
        except Damaged:
            return False

    def plans(self) -> Plans:
        """Return the jobs with their configurations at launch."""
        return read_plans(self.jobs, self.path.with_suffix(".configs.jsonl"))


@dataclass(frozen=True)
class Plans:
    """The jobs of a launch with their configurations.

    Attributes:
        found: the jobs whose configuration is known.
        lost: the jobs without a configuration in any file.
        damage: the problem of the launch's file of configurations; None if the file is whole.
    """

    found: list[JobPlan]
    lost: list[RecordedJob]
    damage: str | None


def read_plans(jobs: list[RecordedJob], path: Path) -> Plans:
    """Find the configuration of each job: in the launch's file, else in the run's own config.yaml.

    A line belongs to the job that has the run id of the line's configuration, since lines may be missing. The place of
    a line counts only where the file is whole and this version of fsamlab gives the configuration another run id than
    the record.
    """
    lines, damage = _read_lines(path, len(jobs))
    made: Sections = {}
    by_id = {_identity(line, made): line for line in lines if line is not None}
    known = {job.run_id for job in jobs}
    found, lost, from_runs = [], [], 0
    for number, job in enumerate(jobs):
        config = by_id.get(job.run_id)
        if config is None:
            config = _own_config(job, made)
            from_runs += config is not None
        if config is None and damage is None and _identity(lines[number], made) not in known:
            config = lines[number]
        if config is None:
            lost.append(job)
        else:
            found.append(JobPlan(job.overrides, job.directory, job.run_id, job.config_hash, config))
    if damage is None and (lost or from_runs):
        damage = str(damaged(path, "is damaged: it has no line for some of the jobs"))
    if damage is not None and from_runs:
        damage += f"; {from_runs} of {len(jobs)} configurations are taken from the runs' own config.yaml"
    return Plans(found, lost, damage)


def _read_lines(path: Path, num_jobs: int) -> tuple[list[dict[str, Any] | None], str | None]:
    """Return the lines of the file, None for a damaged line, and the problem of the file in one line."""
    try:
        content = read_bytes(path)
    except Damaged as e:
        return [], str(e)
    if content is None:
        return [], f"{path} does not exist"
    lines: list[dict[str, Any] | None] = []
    wrong = []
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        lines.append(line if isinstance(line, dict) else None)
        if lines[-1] is None:
            wrong.append(f"line {number} is not a JSON object")
    if len(lines) != num_jobs:
        wrong.append(f"{len(lines)} lines for {num_jobs} jobs")
    return lines, f"{path} is damaged: {wrong[0]}" if wrong else None


def _own_config(job: RecordedJob, made: Sections) -> dict[str, Any] | None:
    """Return the content of the run's config.yaml; None if the file is missing or belongs to another job."""
    try:
        config = read_config(job.directory)
    except Damaged:
        return None
    return config if _identity(config, made) == job.run_id else None


def _identity(config: dict[str, Any] | None, made: Sections) -> str | None:
    """Return the run id of a plain configuration; None if this version of fsamlab cannot read the configuration."""
    try:
        return None if config is None else run_id(from_plain(config, made))
    except ConfigError:
        return None


class Launches(list[Launch]):
    """The launches of a sweep, oldest first.

    Attributes:
        damage: a line for each record that cannot be read: the file, the problem, what to do.
    """

    def __init__(self, found: Iterable[Launch] = (), damage: Iterable[str] = ()) -> None:
        super().__init__(found)
        self.damage = list(damage)


def read_launches(sweep_dir: Path) -> Launches:
    """Return the launches of a sweep, oldest first, with a line for each damaged record."""
    mend = "restore it, or remove it and give the sweep command again"
    launches = Launches()
    for path in sorted(_numbered(sweep_dir / "launches"), key=lambda p: int(p.stem)):
        try:
            entry = read_json(path, LAUNCH, ("jobs",), mend)
            if entry is not None:
                wrong = [w for job in entry["jobs"] if (w := misfit(job, JOB, ("overrides", "directory", "run_id")))]
                if wrong:
                    raise damaged(path, f"is damaged: in a job, {wrong[0]}", mend)
                launches.append(Launch(path, entry))
        except Damaged as e:
            launches.damage.append(str(e))
    return launches


def _numbered(folder: Path) -> list[Path]:
    return [p for p in folder.glob("*.json") if p.stem.isdigit()]


def write_launch(
    sweep_dir: Path,
    plans: list[JobPlan],
    argv: list[str],
    project_root: Path,
    code: dict[str, Any],
    launcher: str | None = None,
    hydra_overrides: Iterable[str] = (),
    cluster: str | None = None,
) -> Launch:
    """Write the record of a launch under the next free number, and return it."""
    folder = sweep_dir / "launches"
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[dict[str, Any]] = []
    for p in plans:
        job = {k: v for k, v in asdict(p).items() if k not in ("config", "until")}
        jobs.append({**job, "directory": os.path.relpath(p.directory, sweep_dir), "slurm_job_id": None})
    entry = {
        "time": now(),
        "command": argv,
        "git": code,
        "launcher": launcher,
        "cluster": cluster,
        "hydra_overrides": list(hydra_overrides),
        "sweep_dir": str(sweep_dir.resolve()),  # only tells a copy of the sweep from a moved sweep
        "jobs": jobs,
    }
    taken = [p.name.partition(".")[0] for p in folder.iterdir()]
    n = 1 + max((int(name) for name in taken if name.isdigit()), default=0)
    while True:
        path = folder / f"{n}.json"
        configs = path.with_suffix(".configs.jsonl")
        try:
            os.close(os.open(configs, os.O_CREAT | os.O_EXCL))  # another launch may take the number meanwhile
        except FileExistsError:
            n += 1
            continue
        break
    write_atomic(configs, "".join(json.dumps(p.config) + "\n" for p in plans))
    if code["dirty"]:
        write_atomic(path.with_suffix(".diff"), uncommitted(project_root))
    write_json(path, entry)  # last: a reader that finds this file finds the whole record
    return Launch(path, entry)


def add_job_ids(launch: Launch, ids: dict[Path, str]) -> None:
    """Add the SLURM job ids of a launch's run directories to its record."""
    relative = {os.path.relpath(directory, launch.sweep_dir): job_id for directory, job_id in ids.items()}
    for job in launch.entry["jobs"]:
        job["slurm_job_id"] = relative.get(job["directory"], job["slurm_job_id"])
    write_json(launch.path, launch.entry)
