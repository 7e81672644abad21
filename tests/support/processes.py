"""Work for processes of their own.

A new process imports the function that it runs. A test module has no name by which a new process finds the module: its
functions go into another process as FileFunction(__file__, name).
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from fsamlab.run import run
from fsamlab.rundir import checkpoint
from fsamlab.rundir.ownership import Ownership
from support.runs import compose_tiny

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fsamlab.run", "support.processes"])


@dataclass(frozen=True)
class FileFunction:
    """A function of a file that is no importable module, for a process of its own."""

    file: str
    name: str

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        spec = importlib.util.spec_from_file_location(Path(self.file).stem, self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, self.name)(*arguments, **keywords)


def train(overrides: tuple[str, ...], directory: str, slow_fsync: float = 0.0) -> None:
    """Make one run; a slow disk makes it likely that a kill hits a checkpoint."""
    if slow_fsync:
        real = os.fsync

        def fsync(fd: int) -> None:
            time.sleep(slow_fsync)
            real(fd)

        os.fsync = fsync
    logging.basicConfig(filename=Path(directory) / "run.log", level=logging.INFO, force=True)
    run(compose_tiny(*overrides), Path(directory))


def start(overrides: tuple[str, ...], directory: str | Path, slow_fsync: float = 0.0) -> BaseProcess:
    """Start `train` in a process of its own."""
    Path(directory).mkdir(exist_ok=True)
    process = CONTEXT.Process(target=train, args=(overrides, str(directory), slow_fsync))
    process.start()
    return process


def finish(overrides: tuple[str, ...], directory: str | Path) -> dict[str, Any]:
    """Run `train` to its end in a process of its own; return the last weights."""
    process = start(overrides, directory)
    process.join(120)
    assert process.exitcode == 0
    return checkpoint.load(Path(directory) / "checkpoints" / "last.pt")["model"]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.005)


def hold(directory: Path, ready: Event, leave: Event) -> None:
    """Own a run directory from `ready` until `leave`."""
    owner = Ownership(directory)
    ready.set()
    leave.wait(30)
    owner.release()
