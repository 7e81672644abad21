"""What can be said of a file of torch.save without torch: it is a zip file, and its members have checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from fsamlab.storage.reading import Damaged

RESUMABLE = b"metrics_bytes"  # a key of every checkpoint that a run can go on from, and of no other


def verify(file: IO[bytes], path: Path) -> None:
    """Compare every member of an open torch file with its checksum, which torch.load does not do.

    A file in torch's older form, which is no zip file and has no checksums, passes. Reads the file once, with 1 GB/s.

    Args:
        file: open for reading; its position is the beginning's afterwards.
        path: for the message.

    Raises:
        Damaged: a byte of the file is another one than when it was written.
    """
    start = file.read(4)
    file.seek(0)
    if start != b"PK\x03\x04":
        return
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
    except Exception as e:  # a torn directory makes zipfile stumble in a dozen ways
        raise Damaged(f"{path} is damaged: {type(e).__name__}: {e}") from e
    if wrong is not None:
        raise Damaged(f"{path} is damaged: the checksum of {wrong} is another one")
    file.seek(0)


def holds_weights_alone(path: Path) -> bool:
    """Return whether a run's checkpoint holds what stays after the run's end, and no state to go on from."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            return pickled is not None and RESUMABLE not in archive.read(pickled)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False
