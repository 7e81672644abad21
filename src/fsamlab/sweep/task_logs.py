"""What the logs of a job with several tasks say about its end: which task ended first, and how.

srun writes one line for each task that ends badly, and then ends the other tasks. The lines are in the log of the batch
script, which is also the log of task 0: `.submitit/JOB/JOB_0_log.err`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

TAIL_BYTES = 65536
START = "tasks start on"
# A line of the batch script. SLURM appends the logs of all starts of a job to one file, and only the last start counts.
MARK_START = f'echo "{START} $SLURM_JOB_NODELIST, restart ${{SLURM_RESTART_COUNT:-0}}" >&2'
ENDED = re.compile(r"^srun: error: (?P<node>\S+): tasks? (?P<task>\d+)[\d,-]*: (?P<how>.+)$")
OWN_WORD = "Exited with exit code"  # so its own log says why


class BadEnd(NamedTuple):
    """How a task of a job ended: its number, srun's word in one line with the last line of the task, and its log."""

    task: int
    words: str
    log: Path


def first_to_end(folder: Path, job_id: str) -> BadEnd | None:
    """Return the first task of a job that ended badly; None if the job had one task, or if srun has told nothing.

    Args:
        folder: `.submitit` of the sweep.
        job_id: `123` or `123_4`.
    """
    lines = _tail(_log(folder, job_id, 0))
    starts = [number for number, line in enumerate(lines) if line.startswith(START)]
    if not starts:
        return None
    found = next(filter(None, map(ENDED.match, lines[starts[-1] :])), None)
    if found is None:
        return None
    task = int(found["task"])
    log = _log(folder, job_id, task)
    words = f"task {task} on {found['node']}: {found['how']}"
    if task > 0 and found["how"].startswith(OWN_WORD):
        words = ": ".join([words, *_tail(log)[-1:]])
    return BadEnd(task, words, log)


def _log(folder: Path, job_id: str, task: int) -> Path:
    """Return the file with the messages of a task; with `stderr_to_stdout` submitit writes one file instead of two."""
    path = folder / job_id / f"{job_id}_{task}_log.err"
    return path if path.exists() else path.with_suffix(".out")


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as f:
            f.seek(max(0, f.seek(0, 2) - TAIL_BYTES))
            return [line for text in f.read().decode(errors="replace").splitlines() if (line := text.strip())]
    except OSError:
        return []
