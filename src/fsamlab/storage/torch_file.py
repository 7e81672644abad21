"""Facts about a file of torch.save that need no torch: such a file is a zip file, and its members have checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from fsamlab.storage.reading import Damaged

RESUMABLE = b"metrics_bytes"  # a key that every resumable checkpoint has, and no other file


def verify(file: IO[bytes], path: Path) -> None:
    """Compare every member of an open torch file with its checksum. torch.load does not do that.

    Files in torch's older form are not zip files and have no checksums: they pass. The check reads the file once, at 1
    GB/s.

    Args:
        file: open for reading; after the call the position is the beginning of the file.
        path: the name of the file for the message.

    Raises:
        Damaged: a byte of the file has changed since it was written.
    """
    start = file.read(4)
    file.seek(0)
    if start != b"PK\x03\x04":
        return
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
    except Exception as e:  # zipfile raises a dozen kinds of errors on a torn file
        raise Damaged(f"{path} is damaged: {type(e).__name__}: {e}") from e
    if wrong is not None:
        raise Damaged(f"{path} is damaged: the checksum of {wrong} does not match")
    file.seek(0)


def holds_weights_alone(path: Path) -> bool:
    """Return whether a run's checkpoint holds only the weights that stay after the run, and no state to resume from."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            return pickled is not None and RESUMABLE not in archive.read(pickled)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False
