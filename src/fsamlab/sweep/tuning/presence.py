"""One study, one process at work: the others are refused, and readers see whether one lives."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsamlab.rundir.ownership import DirectoryBusy, Ownership
from fsamlab.sweep.tuning.record import PRESENCE
from fsamlab.terminal.errors import SweepFailed


@contextmanager
def alone(sweep_dir: Path) -> Iterator[None]:
    """Hold the study for this process.

    Raises:
        SweepFailed: another process holds it.
    """
    place = sweep_dir / PRESENCE
    place.mkdir(parents=True, exist_ok=True)
    try:
        owner = Ownership(place)
    except DirectoryBusy as e:
        who = str(e).partition("already being written by ")[2] or str(e)
        raise SweepFailed(f"another command tunes {sweep_dir} already: {who}") from e
    try:
        yield
    finally:
        owner.release()
        shutil.rmtree(place, ignore_errors=True)
