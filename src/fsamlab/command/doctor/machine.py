"""What can be told without asking anybody: Python, processor, memory, limits, locale, screen. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from fsamlab import __version__
from fsamlab.command.doctor.items import NOTE, SEEN, Item
from fsamlab.rundir.environment import cpu_name
from fsamlab.terminal.tables import told
from fsamlab.terminal.text import console

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "submitit", "wandb")
SMALL_SHM = 2**30  # bytes; containers have 64 MB where nothing else is said


def machine() -> Iterator[Item]:
    """Yield the findings."""
    yield Item("fsamlab", f"{__version__} in {Path(__file__).resolve().parents[2]}")
    yield Item("Python", f"{platform.python_version()}, {sys.executable}")
    yield libraries()
    yield Item("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Item("processor", f"{cpu_name()}, {_cores()}")
    yield Item("memory", _memory())
    yield _shared_memory()
    yield Item("open files", f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} in a process")
    yield Item("locale", f"{sys.stdout.encoding}, LANG={os.environ.get('LANG', '')}")
    screen = console()
    width = f"{screen.width} characters wide" if told(screen) else "no terminal"
    yield Item("screen", f"{width}, TERM={os.environ.get('TERM', '')}")


def libraries() -> Item:
    """Return the versions of the libraries, by their metadata."""
    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    said = ", ".join(found + [f"no {name}" for name in missing])
    return Item("libraries", said, NOTE if missing else SEEN, f"pip install {' '.join(missing)}" if missing else "")


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"{usable} of {os.cpu_count()} cores usable" + (f", OMP_NUM_THREADS={threads}" if threads else "")


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if "kB" in line}
        return f"{sizes['MemAvailable']:.1f} of {sizes['MemTotal']:.1f} GiB free"
    except (OSError, ValueError, KeyError, IndexError):  # not Linux
        return "not known on this system"


def _shared_memory() -> Item:
    """Return the size of /dev/shm, through which workers of a DataLoader hand over batches."""
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:
        return Item("/dev/shm", "not there")
    small = size < SMALL_SHM
    advice = "data.num_workers=0, or more shared memory (docker run --shm-size=8g)" if small else ""
    return Item("/dev/shm", f"{size / 2**30:.1f} GiB", NOTE if small else SEEN, advice)
