"""The state of a run of a sweep, decided from the run's status.json and from the scheduler's answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fsamlab.sweep.cluster import GONE, JobRef, JobState
from fsamlab.sweep.runs import SweepRun
from fsamlab.sweep.task_logs import first_to_end

LOST_STATES = frozenset({GONE, "NODE_FAIL", "BOOT_FAIL", "COMPLETED"})  # the job ended without reporting failure
TASK_FAILED = frozenset({"FAILED", "OUT_OF_MEMORY"})  # a task ended the job; of other ends SLURM's word says why
TAIL_BYTES = 4096


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    Attributes:
        run: the run.
        status: one of `record.STATUSES`.
        reason: why the run is not finished, in one line.
        log: the log with more about the reason.
        active: whether the run waits or runs, or may do so because no scheduler could be asked.
        busy: whether it certainly waits or runs: the scheduler, a heartbeat or a living launcher says so.
        job_ref, job: the SLURM job that decides the status, and the scheduler's answer about the job.
        disk: the run's status.json.
    """

    run: SweepRun
    status: str
    reason: str | None
    log: Path | None
    active: bool
    busy: bool
    job_ref: JobRef | None
    job: JobState | None
    disk: dict[str, Any] = field(repr=False)

    @property
    def job_id(self) -> str | None:
        """Id of the SLURM job that decides the status."""
        return self.job_ref.id if self.job_ref else None

    @property
    def never_ran(self) -> bool:
        """Whether the run was never started, and no known job will start it."""
        return self.status == "queued" and not self.active

    @property
    def shown(self) -> str:
        """The status for a reader: `not begun` in place of `queued`, if nothing will start the run."""
        return "not begun" if self.never_ran else self.status

    def as_dict(self) -> dict[str, Any]:
        """Return all facts with stable keys, ready for JSON."""
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
            "slurm_cluster": self.job_ref.cluster if self.job_ref else None,
            "slurm_state": self.job.state if self.job else None,
            "slurm_reason": self.job.reason if self.job else None,
            "slurm_nodes": self.job.nodes if self.job else None,
            "launch": self.run.launch,
            "overrides": self.run.overrides,
            "warnings": list(get("warnings") or []),
        }


def jobs_of(run: SweepRun, disk: Mapping[str, Any]) -> tuple[tuple[JobRef, str], ...]:
    """Return all known jobs of a run, latest first, with the job that wrote status.json, wherever it was launched."""
    writer = None if run.copied else disk.get("slurm_job_id")
    if writer is None or any(ref.id == writer for ref, _ in run.jobs) or disk.get("slurm_cluster") is None:
        known = run.jobs
    else:
        known = (*run.jobs, (JobRef(writer, disk["slurm_cluster"]), str(disk.get("started", ""))))
    if writer is not None and not known:
        known = ((JobRef(writer), str(disk.get("started", ""))),)
    return known


def judge(
    run: SweepRun, disk: dict[str, Any], refs: tuple[tuple[JobRef, str], ...], jobs: Mapping[JobRef, JobState]
) -> RunState:
    """Decide the status of a run from its status.json (`disk`) and the scheduler's answers (`jobs`).

    The two may contradict each other: a killed job cannot write its end, and a scheduler forgets old jobs. The first
    rule that applies decides. The order puts the process that writes the files before other jobs of the run, because
    another job may have been refused the directory, and another cluster may not know the job.
    """
    word, own_word = disk["status"], disk.get("exception")
    # current_status has checked the heartbeat: "running" means that the process is alive, "lost" that it is not
    lives = word == "running" and not run.copied
    if run.copied and word == "running":
        own_word = "ran where the sweep was copied from"
    if word == "lost":  # the heartbeat has stopped; the scheduler may know why
        word = "running"
    writer = _writers(disk, refs, jobs)
    active = [
        ref for ref, _ in refs if ref in jobs and jobs[ref].active and not _given_up(ref, run, disk, refs, writer)
    ]
    status, busy, unsure, chosen = word, False, False, None
    if word == "finished":  # the summary is on disk, so the scheduler cannot change the status
        chosen = writer or next((ref for ref, _ in refs), None)
    elif word == "damaged":
        busy, chosen = bool(active), next(iter(active), None)
    elif active:  # SLURM runs the job or will run it, whatever an earlier attempt has written
        chosen = writer if writer in active else active[0]
        busy = True
        if jobs[chosen].waiting and not lives:
            status = "queued"
        elif (
            word not in ("failed", "paused") or chosen != writer
        ):  # a job that has written one of these is about to end
            status = "running"
    # alive by its heartbeat; not alive if SLURM knows a definite end of the job: the heartbeat is then an old one
    elif lives and not (writer is not None and writer in jobs and jobs[writer].state not in LOST_STATES):
        busy, chosen = True, writer
    elif run.waits_since is not None and str(disk.get("updated", "")) < run.waits_since:
        status, busy = "queued", True  # a living local launcher has not started the run yet
    elif word == "paused" and (not refs or refs[0][1] <= str(disk.get("updated", ""))):
        chosen = writer  # as planned; a job that was submitted later was to continue the run
    elif (run.copied and not refs) or _last_was_local(disk, refs):
        status = "lost" if word == "running" else word  # no job of SLURM can say more
    elif refs:  # the last attempt was a SLURM job, and the job has ended
        latest = refs[0][0]
        # "running" and "preempted" are words of a killed writer, so the end of the writer's job explains them
        chosen = writer if writer is not None and writer in jobs and word in ("running", "preempted") else latest
        job = jobs.get(chosen)
        if job is None:  # no scheduler could be asked, so the word on disk stays
            unsure = word in ("running", "queued")
        else:
            status = _ended(word, job, by_other=writer is not None and chosen != writer)
        if disk["status"] == "lost":  # its message says only that the process is gone; scheduler and log say why
            own_word = None
    elif word == "running":
        status = "lost"
    job = jobs.get(chosen) if chosen is not None and status != "finished" else None
    state = RunState(run, status, None, None, busy or unsure, busy, chosen, job, disk)
    if status in ("finished", "running", "paused") and not (job is not None and job.waiting):
        return state
    reason, log = _reason(state, own_word)
    return replace(state, reason=reason, log=log)


def _writers(
    disk: Mapping[str, Any], refs: tuple[tuple[JobRef, str], ...], jobs: Mapping[JobRef, JobState]
) -> JobRef | None:
    """Return the job that wrote status.json; None if a local process wrote it."""
    name = disk.get("slurm_job_id")
    if name is None:
        return None
    same = [ref for ref, _ in refs if name in (ref.id, jobs[ref].raw_id if ref in jobs else None)]
    at = [ref for ref in same if ref.cluster == disk.get("slurm_cluster")]
    return next(iter([*at, *same]), JobRef(name, disk.get("slurm_cluster")))


def _given_up(
    ref: JobRef, run: SweepRun, disk: Mapping[str, Any], refs: tuple[tuple[JobRef, str], ...], writer: JobRef | None
) -> bool:
    """Return whether an active job that holds several runs will not run this run again (packed.jobs_to_start).

    Such a job goes on for its other runs: after this run has failed in the job, and after a later launch has submitted
    the run again, which a launch does with a failed run only.
    """
    return ref in run.shared and (ref != refs[0][0] or (disk["status"] == "failed" and ref == writer))


def _last_was_local(disk: Mapping[str, Any], refs: tuple[tuple[JobRef, str], ...]) -> bool:
    """Return whether a process outside of SLURM wrote the status, after the last submission to SLURM."""
    if "updated" not in disk or disk.get("slurm_job_id") is not None:
        return False
    return not refs or refs[0][1] < disk["updated"]


def _ended(word: str, job: JobState, *, by_other: bool) -> str:
    """Return the status of an unfinished run whose job has ended; `by_other`: another job wrote the word on disk."""
    if word == "failed" and not by_other:
        return "failed"
    if job.state == "CANCELLED":
        return "cancelled"
    if job.state == "PREEMPTED" or (word == "preempted" and job.state == "COMPLETED"):
        return "preempted"
    return "lost" if job.state in LOST_STATES else "failed"


def _reason(state: RunState, own_word: str | None) -> tuple[str | None, Path | None]:
    """Return why a run is not finished, in one line, and the log that says more."""
    run, job = state.run, state.job
    if state.status == "damaged":
        return own_word, None
    if state.status == "queued":
        if job is not None:
            return f"waits ({job.reason or job.state})", None
        if state.busy:
            return "waits for its turn: the launcher is at work", None
        return (None if state.active else "did not run"), None
    files = [run.directory / "run.log"]
    told = None
    if state.job_id is not None:
        logs = run.sweep_dir / ".submitit"
        files.append(logs / state.job_id / f"{state.job_id}_0_log.err")
        told = first_to_end(logs, state.job_id) if job is not None and job.state in TASK_FAILED else None
    tails = {path: line for path in files if (line := last_line(path)) is not None}
    line = own_word.strip().splitlines()[-1] if own_word and own_word.strip() else next(iter(tails.values()), None)
    # The first task writes its reason to status.json. It cannot where it was killed, and where it has lost another task
    # the reason is in the log of that task.
    if told is not None and (not own_word or (own_word.startswith("RankLost") and told.task > 0)):
        line, tails = told.words, {told.log: told.words, **tails}
    if job is not None and job.active and state.status == "failed" and state.job_ref in run.shared:
        job = None  # it goes on for its other runs, so its state says nothing about this run
    parts = [f"SLURM {job.state}" + (f" ({job.reason})" if job.reason else "")] if job is not None else []
    return ": ".join([*parts, *([line] if line else [])]) or None, next(iter(tails), None)


def last_line(path: Path) -> str | None:
    """Return the last line of a text file that is not blank; None if there is none."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, f.seek(0, 2) - TAIL_BYTES))
            lines = [text for line in f.read().decode(errors="replace").splitlines() if (text := line.strip())]
    except OSError:
        return None
    return lines[-1] if lines else None
