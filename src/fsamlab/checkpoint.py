"""Checkpoints in a run directory: last.pt, previous.pt, best.pt; atomic, loaded with weights_only=True.

At every moment, also in the middle of a save, last.pt is a whole file: the new one is written under a
temporary name, flushed to disk and renamed over it, after the old one was linked as previous.pt.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from fsamlab.files import CannotResume, sync_directory

log = logging.getLogger(__name__)


def save(directory: Path, payload: dict[str, Any], name: str = "last.pt", *, keep_previous: bool = True) -> None:
    """Write `payload` (tensors, numbers, strings and containers of them) as `directory/name`, atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{name}.{os.getpid()}.tmp"  # an older attempt may still be writing its own
    with temporary.open("wb") as f:
        torch.save(payload, f)
        f.flush()
        os.fsync(f.fileno())
    last = directory / name
    if keep_previous and last.exists():
        link = directory / f".previous.{os.getpid()}.tmp"
        link.unlink(missing_ok=True)
        os.link(last, link)
        os.replace(link, directory / "previous.pt")
    os.replace(temporary, last)
    sync_directory(directory)


def load(path: Path) -> dict[str, Any]:
    """Load one checkpoint file on the CPU."""
    payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return payload


def load_latest(directory: Path) -> dict[str, Any] | None:
    """Return the newest readable checkpoint of a run, None where there is none to go on from.

    A file that cannot be read is set aside as *.broken, so that no later save takes it for a good one.

    Raises:
        CannotResume: files are there, but none can be read.
    """
    for left in directory.glob(".*.tmp"):  # of a process that was killed while it saved
        left.unlink(missing_ok=True)
    broken: list[str] = []
    for name in ("last.pt", "previous.pt"):
        path = directory / name
        if not path.exists():
            continue
        try:
            payload = load(path)
        except Exception as e:  # a torn file raises whatever the unpickler stumbles over
            broken.append(name)
            log.warning("%s cannot be read (%s: %s)", path, type(e).__name__, str(e).partition("\n")[0])
            os.replace(path, path.with_suffix(".broken"))
            continue
        if "optimizer" not in payload:
            raise CannotResume(f"{path} holds a finished run's weights only; force=true starts the run again")
        if broken:
            log.warning("resuming from %s, one checkpoint earlier", path)
        return payload
    if broken:
        raise CannotResume(
            f"{directory}: no readable checkpoint among {', '.join(broken)}; force=true starts the run again"
        )
    return None


def finish(directory: Path, model: dict[str, Any], step: int) -> None:
    """Replace the resumable checkpoint by the weights alone, which stay after the run."""
    save(directory, {"model": model, "step": step}, keep_previous=False)
    (directory / "previous.pt").unlink(missing_ok=True)


def discard(directory: Path) -> None:
    """Delete a run's checkpoints, so that it starts from the beginning."""
    for name in ("last.pt", "previous.pt", "best.pt", "last.broken", "previous.broken"):
        (directory / name).unlink(missing_ok=True)
