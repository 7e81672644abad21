"""The runs of a sweep: which run directories belong to the sweep, and which launches and SLURM jobs list each run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fsamlab.rundir.find import find_runs, read_whole
from fsamlab.rundir.reading import read_overrides
from fsamlab.sweep.cluster import JobRef
from fsamlab.sweep.launches import read_launches


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, from the records of the launches that list the run.

    Attributes:
        directory: the run directory.
        overrides: the overrides of the latest launch.
        run_id: the run id at launch; without a record the name of the directory.
        jobs: the SLURM jobs of all launches that list the run, latest first, with the time of the launch.
        launch: number of the latest launch record; None without a record.
        sweep_dir: the directory of the record and of submitit's logs.
        waits_since: time of a local launch that lists the run and whose launcher still lives; None without such a
            launch.
        copied: whether the sweep was copied here; the processes that its files name then write elsewhere.
        shared: the SLURM jobs in `jobs` that hold other runs too.
    """

    directory: Path
    overrides: list[str]
    run_id: str
    jobs: tuple[tuple[JobRef, str], ...]
    launch: int | None
    sweep_dir: Path
    waits_since: str | None = None
    copied: bool = False
    shared: frozenset[JobRef] = frozenset()

    @property
    def slurm_job_id(self) -> str | None:
        """Id of the latest SLURM job, `123` or `123_4`; None if the run was never given to SLURM."""
        return self.jobs[0][0].id if self.jobs else None


def sweep_runs(sweep_dir: Path, damage: list[str] | None = None) -> list[SweepRun]:
    """Return the runs of all launches below `sweep_dir` in the order of the records, then the runs without a record.

    The entry of a later launch replaces that of an earlier launch. If `sweep_dir` is a run directory, the result is
    this run. A line for each damaged record is appended to `damage`.
    """
    damage = [] if damage is None else damage
    if (sweep_dir / "config.yaml").exists() and not (sweep_dir / "launches").exists():
        recorded = _recorded(sweep_dir.parent, []).values()  # a damaged record may concern only other runs
        same = [r for r in recorded if r.directory.resolve() == sweep_dir.resolve()]
        return same or [_unrecorded(sweep_dir, damage)]
    runs = _recorded(sweep_dir, damage)
    others = [directory for directory in find_runs([sweep_dir]) if directory not in runs]
    if others:  # under another path, such as one through a link, a run may be recorded too
        known = {directory.resolve() for directory in runs}
        others = [directory for directory in others if directory.resolve() not in known]
    return [*runs.values(), *(_unrecorded(directory, damage) for directory in others)]


def _recorded(sweep_dir: Path, damage: list[str]) -> dict[Path, SweepRun]:
    runs: dict[Path, SweepRun] = {}
    launches = read_launches(sweep_dir)
    damage += launches.damage
    for launch in launches:
        holds = Counter(job.slurm_job_id for job in launch.jobs)
        here, lives, time_ = not launch.is_of_a_copied_sweep, launch.launcher_lives, str(launch.entry.get("time", ""))
        for job in launch.jobs:
            before = runs.get(job.directory)
            jobs = before.jobs if before else ()  # without a new submission, the earlier job is still the run's job
            shared = before.shared if before else frozenset()
            if job.slurm_job_id is not None and here:
                ref = JobRef(job.slurm_job_id, launch.cluster)
                jobs, shared = ((ref, time_), *jobs), shared | {ref} if holds[ref.id] > 1 else shared
            waits = time_ if lives else before.waits_since if before else None
            runs[job.directory] = SweepRun(
                job.directory, job.overrides, job.run_id, jobs, launch.number, sweep_dir, waits, not here, shared
            )
    return runs


def _unrecorded(directory: Path, damage: list[str]) -> SweepRun:
    overrides = read_whole(read_overrides, directory, damage) or []
    return SweepRun(directory, overrides, directory.name, (), None, directory.parent)
