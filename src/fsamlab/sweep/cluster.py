"""Asks SLURM about jobs: squeue first, and sacct about jobs that squeue has forgotten.

If the scheduler cannot be asked (no tools on this machine, slurmctld down, accounting disabled), no error is raised:
the answer has the known states, and its `problem` says in one line what could not be asked. Several clusters may share
a file system. The number of a job is valid only on its own cluster, which `-M` tells the tools.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

TIMEOUT_SECONDS = 30.0
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
ACTIVE = WAITING | {
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "RESV_DEL_HOLD",
}
GONE = "GONE"  # the controller has no such job any more, and accounting does not say how the job ended
NOTHING = frozenset({"", "None", "None assigned", "(null)", "N/A"})


@dataclass(frozen=True)
class JobState:
    """The scheduler's answer about a job, or about one task of an array.

    Attributes:
        state: SLURM's word without additions ("CANCELLED by 0" is CANCELLED), or GONE.
        reason: squeue's reason why the job waits or ended ("Priority", "TimeLimit"); may be empty.
        nodes: the nodes of the job; empty before it starts.
        raw_id: the task's own number, which the job itself sees as SLURM_JOB_ID; empty if it is not known.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    raw_id: str = ""

    @property
    def active(self) -> bool:
        """Whether the job may still write files: it waits, runs, or will run again."""
        return self.state in ACTIVE

    @property
    def waiting(self) -> bool:
        """Whether the job waits for its start, for the first time or again."""
        return self.state in WAITING


class JobStates(dict[str, JobState]):
    """Job id -> state. A missing id means that the state is not known; the job may still run.

    Attributes:
        problem: one line that says why the scheduler could not be asked; None if it could.
    """

    problem: str | None = None


class JobRef(NamedTuple):
    """A job or a task of an array, and its cluster; None means the cluster of this machine."""

    id: str
    cluster: str | None = None


class Answer(dict[JobRef, JobState]):
    """Job -> state, as :class:`JobStates`, for jobs on several clusters."""

    problem: str | None = None


def ask(jobs: Iterable[JobRef]) -> Answer:
    """Return the states of jobs, after a question to the cluster of each job."""
    wanted: dict[str | None, list[JobRef]] = {}
    for job in jobs:
        wanted.setdefault(job.cluster, []).append(job)
    here = local_cluster() if any(wanted) else None
    answer, problems = Answer(), []
    for name, refs in wanted.items():
        states = job_states((ref.id for ref in refs), None if name == here else name)
        answer.update({ref: states[ref.id] for ref in refs if ref.id in states})
        problems += [states.problem] if states.problem else []
    answer.problem = "; ".join(dict.fromkeys(problems)) or None
    return answer


def local_cluster() -> str | None:
    """Return the name of the default cluster of SLURM's tools; None if it is not known."""
    text, _ = _run(["scontrol", "show", "config"])
    found = re.search(r"^ClusterName\s*=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else os.environ.get("SLURM_CLUSTER_NAME")


def job_states(ids: Iterable[str], cluster: str | None = None) -> JobStates:
    """Return the states of jobs (`123`) and array tasks (`123_4`), with at most three calls of SLURM's tools.

    squeue shows an ended job for MinJobAge (5 minutes by default). sacct is asked only about jobs that squeue does not
    know.

    Args:
        ids: ids of the jobs.
        cluster: the cluster of the jobs; None means the default of SLURM's tools.
    """
    place = ["-M", cluster] if cluster else []
    wanted = set(ids)
    answer = JobStates()
    if not wanted:
        return answer
    queue, squeue_problem = _squeue(wanted, place)
    answer.update(_select(wanted, queue))
    rest = wanted - answer.keys()
    if not rest:
        return answer
    past, sacct_problem = _sacct(rest, place)
    for name, job in _select(rest, past).items():
        # If a controller crashes and loses a job, accounting calls the job active for ever. The controller is right.
        answer[name] = job if squeue_problem or not job.active else JobState(GONE, nodes=job.nodes, raw_id=job.raw_id)
    if squeue_problem is None:
        answer.update({name: JobState(GONE) for name in rest - answer.keys()})
    else:
        answer.problem = f"the scheduler could not be asked: {squeue_problem}; {sacct_problem or 'sacct has no entry'}"
    return answer


def cancel_command(
    ids: Iterable[str], states: Mapping[str, JobState] | None = None, cluster: str | None = None
) -> str | None:
    """Return the `scancel` command for jobs; None if there is nothing to cancel.

    Args:
        ids: ids of the jobs and array tasks.
        states: the scheduler's answers. With them, the command names only active jobs; a whole array has one number.
        cluster: the cluster of the jobs; None means the default of SLURM's tools.
    """
    tasks: dict[str, list[str]] = {}
    for name in dict.fromkeys(ids):
        tasks.setdefault(base_id(name), []).append(name)
    words = []
    for base, names in tasks.items():
        live = names if states is None else [n for n in names if n in states and states[n].active]
        numbers = sorted(int(n.partition("_")[2]) for n in live if "_" in n)
        if len(live) == len(names):
            words.append(base)
        elif len(numbers) == 1:
            words.append(f"{base}_{numbers[0]}")
        elif numbers:
            words.append(f"'{base}_[{_ranges(numbers)}]'")  # quoted: zsh takes brackets for a file pattern
    return " ".join(["scancel", *(["-M", cluster] if cluster else []), *words]) if words else None


def base_id(name: str) -> str:
    """Return the number of a job or of its whole array: `123` for `123_4`."""
    return name.partition("_")[0]


def _bases(ids: Collection[str]) -> str:
    return ",".join(sorted({base_id(name) for name in ids}, key=lambda b: (len(b), b)))


def _squeue(ids: Collection[str], place: list[str]) -> tuple[dict[str, JobState], str | None]:
    """Return {id: state} from squeue, and the problem if there was one."""
    words = ["squeue", *place, "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%N|%A"]
    text, problem = _run([*words, "-j", _bases(ids)])
    if problem is not None and "invalid job id" in problem.lower():
        if len({base_id(name) for name in ids}) == 1:
            return {}, None  # squeue has forgotten the only job that was asked for
        text, problem = _run(words)  # one forgotten job makes squeue refuse the whole question, so list all jobs
    jobs: dict[str, JobState] = {}
    for fields in _table(text, 4):
        raw = fields[4] if len(fields) > 4 else ""
        _enter(jobs, fields[0], JobState(_word(fields[1]), _or_empty(fields[2]), _or_empty(fields[3]), raw))
    return jobs, problem


def _sacct(ids: Collection[str], place: list[str]) -> tuple[dict[str, JobState], str | None]:
    """Return {id: state} from sacct, and the problem if there was one."""
    columns = "JobID,State,NodeList,JobIDRaw"
    text, problem = _run(["sacct", *place, "-n", "-X", "--parsable2", "-o", columns, "-j", _bases(ids)])
    jobs: dict[str, JobState] = {}
    for fields in _table(text, 3):
        raw = fields[3] if len(fields) > 3 else ""
        _enter(jobs, fields[0], JobState(_word(fields[1]), nodes=_or_empty(fields[2]), raw_id=raw))
    return jobs, problem


def _run(command: list[str]) -> tuple[str, str | None]:
    """Return (the output of a command, the problem in one line or None)."""
    env = {k: v for k, v in os.environ.items() if k != "SLURM_CLUSTERS"}  # it would act like -M
    try:
        done = subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
        )
    except FileNotFoundError:
        return "", f"no {command[0]} on this machine"
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} gave no answer in {TIMEOUT_SECONDS:g} s"
    except OSError as e:
        return "", f"{command[0]}: {e.strerror}"
    if done.returncode == 0:
        return done.stdout, None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return "", f"{command[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}"


def _table(text: str, num_fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) >= num_fields:
            yield fields


def _word(state: str) -> str:
    return state.split()[0].rstrip("+").upper() if state.strip() else "UNKNOWN"


def _or_empty(text: str) -> str:
    return "" if text in NOTHING else text


def _enter(jobs: dict[str, JobState], name: str, job: JobState) -> None:
    """Enter a line under its id, under each task of a pending array (`123_[5-9%2]`), and under its own number."""
    array = re.fullmatch(r"(\d+)_\[([^\]]*)\]", name)
    if array is None:
        jobs[name] = job
        if job.raw_id and job.raw_id != base_id(name):  # the last task of an array has the array's number
            jobs.setdefault(job.raw_id, job)
        return
    for part in array[2].partition("%")[0].split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part)
        if span is not None:
            for task in range(int(span[1]), int(span[2] or span[1]) + 1, int(span[3] or 1)):
                jobs.setdefault(f"{array[1]}_{task}", JobState(job.state, job.reason, job.nodes))


def _select(ids: Collection[str], jobs: Mapping[str, JobState]) -> dict[str, JobState]:
    """Return the states of the wanted ids; `123` also finds the task that has the array's number."""
    found = {name: jobs[name] for name in ids if name in jobs}
    missing = {name for name in ids if name not in found}
    if missing:
        last = {job.raw_id: job for name, job in jobs.items() if job.raw_id == base_id(name)}
        for name in missing:
            if "_" not in name and name in last:
                found[name] = last[name]
    return found


def _ranges(numbers: list[int]) -> str:
    """Return sorted numbers in SLURM's form: `1-3,7`."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
