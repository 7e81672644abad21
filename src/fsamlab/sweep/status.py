"""The state of a sweep without a living launcher: its records, its run directories, and the scheduler."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from fsamlab.record import read_status
from fsamlab.sweep.cluster import GONE, JobState, JobStates, job_states
from fsamlab.sweep.plan import read_launches
from fsamlab.sweep.runs import check_exist, current_status, find_runs, no_runs

BAD = ("failed", "cancelled", "lost")  # what makes the exit code 1
LOST_STATES = frozenset({GONE, "NODE_FAIL", "BOOT_FAIL", "COMPLETED"})  # ended, and nobody says that the run failed
TAIL_BYTES = 4096


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, as the latest launch that lists it says.

    Attributes:
        directory: its run directory.
        overrides: what Hydra composes it from.
        run_id: of the configuration at launch; the directory's name where there is no record.
        slurm_job_id: `123` or `123_4`, None for a local run.
        launch: number of the launch record, None for a run without one.
        sweep_dir: where the record and submitit's logs lie.
    """

    directory: Path
    overrides: list[str]
    run_id: str
    slurm_job_id: str | None
    launch: int | None
    sweep_dir: Path


@dataclass(frozen=True)
class RunState:
    """What became of a run: `status` in the words of `record.STATUSES`, and why, with the log that says more."""

    run: SweepRun
    status: str
    reason: str | None
    log: Path | None
    active: bool
    job_id: str | None
    job: JobState | None
    disk: dict[str, Any] = field(repr=False)

    @property
    def never_ran(self) -> bool:
        """Whether nothing of it was ever started and no job is known that would."""
        return self.status == "queued" and not self.active

    def as_dict(self) -> dict[str, Any]:
        """Return everything with stable keys, ready for JSON."""
        get = self.disk.get
        latest = {k: v if math.isfinite(v) else None for k, v in (get("latest") or {}).items()}
        return {
            "run": self.run.directory.name,
            "directory": str(self.run.directory),
            "run_id": self.run.run_id,
            "status": self.status,
            "active": self.active,
            "reason": self.reason,
            "log": str(self.log) if self.log else None,
            "attempts": get("attempts", 0),
            "step": get("step"),
            "last_step": get("last_step"),
            "latest": latest,
            "started": get("started"),
            "updated": get("updated"),
            "host": get("host"),
            "slurm_job_id": self.job_id,
            "slurm_state": self.job.state if self.job else None,
            "slurm_reason": self.job.reason if self.job else None,
            "slurm_nodes": self.job.nodes if self.job else None,
            "launch": self.run.launch,
            "overrides": self.run.overrides,
            "warnings": list(get("warnings") or []),
        }


@dataclass(frozen=True)
class SweepState:
    """All runs in the order of the record, what the scheduler said, and what it could not be asked."""

    runs: list[RunState]
    jobs: JobStates

    @property
    def bad(self) -> list[RunState]:
        """The failed, cancelled and lost runs."""
        return [r for r in self.runs if r.status in BAD]


def sweep_runs(sweep_dir: Path) -> list[SweepRun]:
    """Return the runs of all launches below `sweep_dir` in the order of the records, then those without a record.

    A later launch's entry replaces an earlier one's. `sweep_dir` may be a run directory: then the one run.
    """
    if (sweep_dir / "config.yaml").exists() and not (sweep_dir / "launches").exists():
        same = [r for r in _recorded(sweep_dir.parent).values() if r.directory.resolve() == sweep_dir.resolve()]
        return same or [_unrecorded(sweep_dir)]
    runs = _recorded(sweep_dir)
    known = {d.resolve() for d in runs}
    return [*runs.values(), *(_unrecorded(d) for d in find_runs([sweep_dir]) if d.resolve() not in known)]


def _recorded(sweep_dir: Path) -> dict[Path, SweepRun]:
    runs: dict[Path, SweepRun] = {}
    for launch in read_launches(sweep_dir):
        number, entry = int(launch.path.stem), launch.entry
        for job in entry.get("jobs", []):
            directory = Path(job["directory"])
            if (sweep_dir / directory.name).exists():
                directory = sweep_dir / directory.name  # the sweep may have been moved or copied
            job_id = job.get("slurm_job_id")
            if job_id is None and "slurm" in str(entry.get("launcher")) and directory in runs:
                job_id = runs[directory].slurm_job_id  # not submitted again: the earlier job still stands for it
            runs[directory] = SweepRun(
                directory, list(job["overrides"]), job.get("run_id", directory.name), job_id, number, sweep_dir
            )
    return runs


def _unrecorded(directory: Path) -> SweepRun:
    try:
        overrides = yaml.safe_load((directory / "overrides.yaml").read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError):
        overrides = []
    return SweepRun(directory, list(overrides), directory.name, None, None, directory.parent)


def sweep_state(paths: Sequence[Path]) -> SweepState:
    """Read the state of every run at or below `paths`; the scheduler is asked about what has not finished.

    Raises:
        ConfigError: a path does not exist, or there are no runs at any.
    """
    check_exist(paths)
    runs = list({run.directory: run for path in paths for run in sweep_runs(path)}.values())
    if not runs:
        raise no_runs(paths, "no run directory or launch record there")
    disks = {run.directory: _read(run.directory) for run in runs}
    ids = {run.directory: _job_id(run, disks[run.directory]) for run in runs}
    unfinished = [run.directory for run in runs if disks[run.directory]["status"] != "finished"]
    jobs = job_states(job for d in unfinished if (job := ids[d]) is not None)
    # read again after asking: a run may have finished, and its job left the queue, in between
    disks.update({d: _read(d) for d in unfinished if ids[d] is not None})
    return SweepState([_judge(run, disks[run.directory], ids[run.directory], jobs) for run in runs], jobs)


def _job_id(run: SweepRun, disk: Mapping[str, Any]) -> str | None:
    if run.launch is not None and run.slurm_job_id is not None:
        return run.slurm_job_id
    return disk.get("slurm_job_id")


def _read(directory: Path) -> dict[str, Any]:
    try:
        return read_status(directory)
    except ValueError as e:
        return {"status": "failed", "exception": f"status.json cannot be read: {e}"}


def _judge(run: SweepRun, disk: dict[str, Any], job_id: str | None, jobs: Mapping[str, JobState]) -> RunState:
    """Weigh the run's own word against the scheduler's."""
    word, job = disk["status"], jobs.get(job_id) if job_id else None
    status, active = word, False
    own_word = disk.get("exception")
    if word == "finished":
        job = None
    elif word == "running" and disk.get("slurm_job_id") is None and (job_id is None or _alive(run.directory)):
        now = current_status(run.directory)  # a local process, perhaps after a SLURM job: its heartbeat says
        status, own_word, active = now["status"], now.get("exception"), now["status"] == "running"
    elif job_id is not None and job is None:  # nobody could be asked: what the disk says stays
        active = word in ("running", "queued")
    elif job is not None and job.active:
        active = True
        if job.waiting:
            status = "queued"
        elif word != "failed":  # failed: the job is about to end
            status = "running"
    elif job is not None:
        status = _ended(disk, job_id, job)
    reason, log = None, None
    if status not in ("finished", "running") or (status == "running" and job is not None and job.waiting):
        reason, log = _reason(run, status, own_word, job_id, job, active)
    return RunState(run, status, reason, log, active, job_id, job, disk)


def _alive(directory: Path) -> bool:
    return bool(current_status(directory)["status"] == "running")


def _ended(disk: Mapping[str, Any], job_id: str | None, job: JobState) -> str:
    """Return the status of an unfinished run whose job is over."""
    writer = disk.get("slurm_job_id")
    by_other = bool(writer and job.raw_id) and writer not in (job_id, job.raw_id)  # an earlier job wrote the status
    if disk["status"] == "failed" and not by_other:
        return "failed"
    if job.state == "CANCELLED":
        return "cancelled"
    if job.state == "PREEMPTED" or (disk["status"] == "preempted" and job.state == "COMPLETED"):
        return "preempted"
    return "lost" if job.state in LOST_STATES else "failed"


def _reason(
    run: SweepRun, status: str, own_word: str | None, job_id: str | None, job: JobState | None, active: bool
) -> tuple[str | None, Path | None]:
    """Return why a run is not finished, in one line, and the log that says more."""
    if status == "queued":
        waits = f"waits ({job.reason or job.state})" if job is not None else None
        return waits or (None if active else "did not run"), None
    files = [run.directory / "run.log"]
    if job_id is not None:
        files.append(run.sweep_dir / ".submitit" / job_id / f"{job_id}_0_log.err")
    tails = {path: line for path in files if (line := last_line(path)) is not None}
    line = own_word.strip().splitlines()[-1] if own_word and own_word.strip() else next(iter(tails.values()), None)
    parts = [f"SLURM {job.state}" + (f" ({job.reason})" if job.reason else "")] if job is not None else []
    return ": ".join([*parts, *([line] if line else [])]) or None, next(iter(tails), None)


def last_line(path: Path) -> str | None:
    """Return the last line of a text file that is not blank, None where there is none."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, f.seek(0, 2) - TAIL_BYTES))
            lines = [text for line in f.read().decode(errors="replace").splitlines() if (text := line.strip())]
    except OSError:
        return None
    return lines[-1] if lines else None


def seconds_since(updated: str | None) -> float | None:
    """Return the age of a time as status.json has it."""
    try:
        return None if updated is None else max(0.0, time.time() - datetime.fromisoformat(updated).timestamp())
    except ValueError:
        return None
