"""The file system of runs_dir: what the guarantees of a run rest on, tried with small files.

This module runs in a process of its own, because a dead file server lets every call wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fsamlab.command.doctor.items import FAILED, NOTE, SEEN, WORKS, Item
from fsamlab.storage.locks import NO_LOCKS, now_at
from fsamlab.storage.writing import sync_directory, write_atomic

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "pvfs2", "panfs")
LOCAL_LOCKS = ("localflock", "local_lock=all", "local_lock=flock", "nolock")  # mount options: one machine alone
LITTLE_SPACE = 2**30  # bytes
SKEW_SECONDS = 30.0
ELSEWHERE = "runs_dir=DIR with a directory that you may write, or the key runs_dir in conf/local/default.yaml"
HELD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"


@contextlib.contextmanager
def scratch(runs_dir: Path) -> Iterator[Path]:
    """Yield a new directory inside `runs_dir`; afterwards the directory is gone, and parents that it needed too."""
    made = missing(runs_dir)
    place = runs_dir / f".doctor.{os.getpid()}.{secrets.token_hex(3)}"
    try:
        place.mkdir(parents=True)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        remove(made)


def missing(directory: Path) -> list[Path]:
    """Return a directory and its parents as far as they do not exist, the innermost first."""
    return [place for place in (directory, *directory.parents) if not place.exists()]


def remove(directories: list[Path]) -> None:
    """Remove directories that were made, where they are empty; a run may have begun there meanwhile."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def files(runs_dir: str) -> Iterator[Item]:
    """Yield the findings about the file system of a directory, which need not exist."""
    place = Path(runs_dir)
    existing = next(p for p in (place, *place.parents) if p.exists())
    yield mount(existing)
    yield space(existing)
    try:
        with scratch(place) as directory:
            yield Item("runs_dir", f"{place}: a directory was made, written and removed", WORKS)
            yield from tried(directory)
    except OSError as e:
        yield Item("runs_dir", f"{place}: {e.strerror}", FAILED, ELSEWHERE)


def mount(place: Path) -> Item:
    """Return the type of the file system, and whether it is one of a network."""
    kind, source, options = _mounted(place.resolve())
    network = kind in NETWORK or kind.startswith("fuse.")
    where = f" from {source}" if kind in NETWORK else ""
    said = f"{kind}{where}" + (", shared over a network" if network else "")
    local = [option for option in LOCAL_LOCKS if option in options]
    if network and local:
        advice = "locks hold on one machine alone: do not start one run on two machines at the same time"
        return Item("file system", f"{said}, mounted with {local[0]}", NOTE, advice)
    return Item("file system", said)


def _mounted(place: Path) -> tuple[str, str, list[str]]:
    """Return type, source and options of the file system that a path lies on."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "not known on this system", "", []
    best, found = -1, ("not known", "", "")
    for line in lines:  # proc(5): the fields before " - " name the place, the fields behind it the file system
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace")
        # of two mounts at one place the later one is seen
        if len(point) >= best and (point == "/" or place == Path(point) or Path(point) in place.parents):
            kind, source, options = [*after.split(), "", ""][:3]
            best, found = len(point), (kind, source, f"{before.split()[5]},{options}")
    return found[0], found[1], found[2].split(",")


def space(place: Path) -> Item:
    """Return the free space and the free number of files; a quota of the user may leave less."""
    usage, inodes = shutil.disk_usage(place), os.statvfs(place)
    said = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB"
    if inodes.f_files:  # 0 where the file system makes as many as it needs
        said += f", {inodes.f_favail:,} files"
    if usage.free < LITTLE_SPACE:
        return Item("free space", said, NOTE, f"remove files, or {ELSEWHERE}")
    return Item("free space", said)


def tried(directory: Path) -> Iterator[Item]:
    """Yield what works in a directory: locks, links, replacing, and the clock of the file server."""
    yield lock(directory / "lock")
    yield link(directory)
    yield replace(directory)
    yield clock(directory)


def lock(path: Path) -> Item:
    """Return whether flock keeps another process out."""
    with path.open("w", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in NO_LOCKS:
                found = f"not there ({e.strerror}); fsamlab makes lock files instead"
                return Item("flock", found, NOTE, "nothing has to be done; mounting with flock makes locks faster")
            return Item("flock", e.strerror or str(e), FAILED, "ask the administrator, or use another runs_dir")
        other = subprocess.run([sys.executable, "-c", HELD, path], capture_output=True, text=True, encoding="utf-8")
        if other.returncode == 0:
            found = "two processes hold one lock at the same time"
            return Item("flock", found, FAILED, "do not start a run twice at the same time; or use another runs_dir")
        if "BlockingIOError" not in other.stderr:
            return Item("flock", (other.stderr.splitlines() or ["no answer"])[-1], FAILED, "see the message")
    return Item("flock", "keeps a second process out", WORKS)


def link(directory: Path) -> Item:
    """Return whether a file can have two names, as previous.pt and last.pt are made."""
    one, two = directory / "one", directory / "two"
    one.write_bytes(b"1")
    try:
        os.link(one, two)
    except OSError as e:
        found = f"not there ({e.strerror}); checkpoints are renamed instead"
        return Item("hard links", found, NOTE, "nothing has to be done")
    same = one.samefile(two) and one.stat().st_nlink == 2
    said, advice = ("a file has two names", "") if same else ("the second name is another file", "use another runs_dir")
    return Item("hard links", said, WORKS if same else FAILED, advice)


def replace(directory: Path) -> Item:
    """Return whether a file is replaced in one step, as checkpoints and status files are."""
    path = directory / "replaced"
    try:
        for text in ("old", "new"):
            write_atomic(path, text)
        sync_directory(directory)
    except OSError as e:
        return Item("atomic replace", e.strerror or str(e), FAILED, "use another runs_dir")
    left = [p.name for p in directory.iterdir() if p.name.endswith(".tmp")]
    good = path.read_text(encoding="utf-8") == "new" and not left
    said = "written, flushed to the disk and renamed" if good else "the old content is still there"
    return Item("atomic replace", said, WORKS if good else FAILED, "" if good else "use another runs_dir")


def clock(directory: Path) -> Item:
    """Return how far the clock of the file server is from that of this machine."""
    skew = now_at(directory) - time.time()
    if abs(skew) > SKEW_SECONDS:
        advice = "set the clocks (NTP); fsamlab compares times of the file server alone"
        return Item("clock", f"the file server's differs by {skew:+.0f} s", NOTE, advice)
    return Item("clock", f"the file server's differs by less than {SKEW_SECONDS:g} s", SEEN)
