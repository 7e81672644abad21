"""Checkpoints in a run directory: last.pt, previous.pt, best.pt; atomic, loaded with weights_only=True.

At every moment, also in the middle of a save, last.pt is a whole file: the new one is written under a
temporary name, flushed to disk and renamed over it, after the old one was linked as previous.pt.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fsamlab.storage.reading import CannotResume, Damaged
from fsamlab.storage.torch_file import verify
from fsamlab.storage.writing import replacing, sync_directory

log = logging.getLogger(__name__)

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})


def save(
    directory: Path,
    payload: dict[str, Any],
    name: str = "last.pt",
    *,
    keep_previous: bool = True,
    guard: Callable[[], None] | None = None,
) -> None:
    """Write `payload` (tensors, numbers, strings and containers of them) as `directory/name`, atomically.

    Args:
        guard: called right before the renames; what it raises keeps every file as it is.

    Raises:
        OSError: it names the file; the disk is full, for one. The earlier checkpoints are as they were.
    """
    directory.mkdir(parents=True, exist_ok=True)
    last = directory / name

    def before_the_rename() -> None:
        if guard is not None:
            guard()
        if keep_previous:
            _keep(last, directory / "previous.pt")

    with replacing(last, before_the_rename) as f:
        _write(payload, f)
    sync_directory(directory)


def _write(payload: dict[str, Any], file: Any) -> None:
    """Write a torch file; an error of the disk is raised as such, and not as what torch makes of it."""
    try:
        torch.save(payload, file)
    except RuntimeError as e:  # torch's zip writer, which ends without a word about the cause
        cause: BaseException | None = e
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise cause from None


def _keep(last: Path, previous: Path) -> None:
    """Give `last`, if it is there, the name `previous`, too; where a file has one name only, that one instead.

    In the second case a run that is killed before the new last.pt is there goes on from previous.pt.
    """
    if not last.exists():
        return
    link = previous.with_name(f".{previous.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    try:
        os.link(last, link)
    except OSError as e:
        if e.errno not in NO_LINKS:
            raise
        os.replace(last, previous)
        return
    try:
        os.replace(link, previous)
    except BaseException:
        with contextlib.suppress(OSError):
            link.unlink()
        raise


def load(path: Path) -> dict[str, Any]:
    """Load one checkpoint file on the CPU, also while a run replaces it.

    Raises:
        Damaged: the file is torn, or a byte of it has changed since it was written.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        verify(file, path)
        try:
            payload = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as e:  # a torn file raises whatever the unpickler stumbles over
            reason = str(e).partition("\n")[0]
            if isinstance(e, pickle.UnpicklingError):  # torch advises to load it with weights_only=False
                reason = "it is damaged, or holds other Python objects than a run writes; they could run code"
            raise Damaged(f"{path} cannot be read as a checkpoint ({type(e).__name__}: {reason})") from e
    if not isinstance(payload, dict):
        raise Damaged(f"{path} is no checkpoint: it holds a {type(payload).__name__}")
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
        except Damaged as e:
            broken.append(name)
            log.warning("%s cannot be read: %s", path, e)
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


def finish(directory: Path, model: dict[str, Any], step: int, guard: Callable[[], None] | None = None) -> None:
    """Replace the resumable checkpoint by the weights alone, which stay after the run."""
    save(directory, {"model": model, "step": step}, keep_previous=False, guard=guard)
    (directory / "previous.pt").unlink(missing_ok=True)
