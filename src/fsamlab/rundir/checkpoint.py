"""Checkpoints in a run directory: last.pt, previous.pt, best.pt, ema.pt.

Files are written atomically and loaded with weights_only=True. At every moment, also in the middle of a save, last.pt
is a whole file. The new checkpoint is written under a temporary name and flushed to the disk. Then the old file gets
the second name previous.pt, and the new file is renamed to last.pt.
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
    """Write `payload` (tensors, numbers, strings and containers of these) as `directory/name`, atomically.

    Args:
        directory: the directory of the checkpoints; made if missing.
        payload: the content of the checkpoint.
        name: the name of the file.
        keep_previous: whether the old file stays as previous.pt.
        guard: called right before the renames. If `guard` raises, every file stays as it is.

    Raises:
        OSError: names the file, for example when the disk is full. The earlier checkpoints stay as they are.
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
    """Write a torch file; raise an error of the disk as that error and not as the error that torch makes of it."""
    try:
        torch.save(payload, file)
    except RuntimeError as e:  # torch's zip writer hides the cause, an OSError, in its context
        cause: BaseException | None = e
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise cause from None


def _keep(last: Path, previous: Path) -> None:
    """Give `last`, if it exists, the second name `previous`.

    A file system without links renames `last` instead. A run that is killed before the new last.pt exists then
    continues from previous.pt.
    """
    if not last.exists():
        return
    # os.link does not replace an existing file: link under a new name, then rename the link over previous.pt.
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
    """Load one checkpoint file on the CPU; works while a run replaces the file.

    Raises:
        Damaged: the file is torn, or a byte of the file has changed since it was written.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        verify(file, path)
        try:
            payload = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as e:  # the unpickler raises many kinds of errors on a torn file
            reason = str(e).partition("\n")[0]
            # Torch advises weights_only=False, which would run code in the file.
            if isinstance(e, pickle.UnpicklingError):
                reason = "the file is damaged, or holds Python objects that no run writes and that could run code"
            raise Damaged(f"{path} cannot be read as a checkpoint ({type(e).__name__}: {reason})") from e
    if not isinstance(payload, dict):
        raise Damaged(f"{path} is not a checkpoint: it holds a {type(payload).__name__}")
    return payload


def load_latest(directory: Path) -> dict[str, Any] | None:
    """Return the newest readable checkpoint of a run; None where the run has no checkpoint.

    A file that cannot be read is renamed to *.broken, so that no later save keeps that file as previous.pt.

    Raises:
        CannotResume: no existing checkpoint can be read, or the checkpoint holds the weights of a finished run only.
    """
    for left in directory.glob(".*.tmp"):  # left by a process that was killed while it saved
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
            raise CannotResume(f"{path} holds only the weights of a finished run; force=true starts the run again")
        if broken:
            log.warning("resuming from %s, the checkpoint before", path)
        return payload
    if broken:
        raise CannotResume(
            f"{directory}: no readable checkpoint among {', '.join(broken)}; force=true starts the run again"
        )
    return None


def finish(directory: Path, model: dict[str, Any], step: int, guard: Callable[[], None] | None = None) -> None:
    """Replace the resumable checkpoint by the weights alone, which stay after the run.

    Args:
        directory: the directory of the checkpoints.
        model: the model's state_dict.
        step: number of optimizer steps made.
        guard: as in :func:`save`.
    """
    save(directory, {"model": model, "step": step}, keep_previous=False, guard=guard)
    (directory / "previous.pt").unlink(missing_ok=True)
