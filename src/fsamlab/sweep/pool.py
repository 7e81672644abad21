"""Jobs side by side on one machine, each in a process of its own, with its share of threads and GPUs.

The local launcher and a SLURM job that holds several runs (packed.py) use the same pool. The processes are forked from
a server that has imported torch once. A job that dies stops no other job.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fsamlab.rundir.frozen_job import FrozenJob
from fsamlab.sweep.job import JobRunner, make_directory
from fsamlab.terminal import errors
from fsamlab.terminal.output import outputs

PRELOAD = ["fsamlab.sweep.preload"]
HELD = (signal.SIGTERM, signal.SIGUSR2)  # SLURM sends both to all processes of a job, also to the server


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that jobs may use; torch, which is slow to import, is not asked."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    devices = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(devices.iterdir())))] if devices.is_dir() else []


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def held_back() -> Iterator[None]:
    """Block the signals of HELD; the server, if it starts inside, inherits the mask.

    A signal that SLURM sends to all processes of a job must not end the server.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        resource_tracker.ensure_running()  # another helper of multiprocessing; its start unblocks SIGTERM here
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_server(threads: int) -> None:
    """Start the server of this process, unless it runs; the call returns at once, while the server imports torch.

    Args:
        threads: of each job. OpenMP reads the variable once, when the server imports torch.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    forkserver.set_forkserver_preload(PRELOAD)
    with held_back():
        forkserver.ensure_running()


class Pool:
    """Starts jobs in their order, at most `slots` at once.

    Args:
        jobs: the jobs.
        slots: a job that starts takes a free slot; the number of the slot says which GPU the job gets.
        threads: threads of each job.
        gpus: ids of the GPUs, from :func:`visible_gpus`.
        hold: whether a job that trains begins with its signals held back, until the run can act on a signal.

    Attributes:
        waiting: numbers of the jobs that have not started.
        running: {number of a job: its process}.
    """

    def __init__(
        self, jobs: Sequence[FrozenJob], slots: int, threads: int, gpus: Sequence[str], *, hold: bool = False
    ) -> None:
        self.jobs, self.threads, self.gpus, self.hold = jobs, threads, gpus, hold
        self.waiting = list(range(len(jobs)))
        self.running: dict[int, Any] = {}
        self._free = list(range(slots))
        self._slot: dict[int, int] = {}
        # A fork of this process would copy locks that its threads hold; a fresh interpreter for each job would import
        # torch each time. The server has imported torch once and has no threads: its forks are safe and start at once.
        self._context = multiprocessing.get_context("forkserver")
        start_server(threads)

    def gpu_of(self, index: int) -> str | None:
        """Return the id of the GPU of a job that was started; None without a GPU."""
        return self.gpus[self._slot[index] % len(self.gpus)] if self.gpus else None

    def start(self) -> list[int]:
        """Start as many waiting jobs as there are free slots; return their numbers."""
        started = []
        while self.waiting and self._free:
            index = self.waiting.pop(0)
            self._slot[index] = self._free.pop(0)
            gpu = self.gpu_of(index)
            env = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
            arguments = (self.jobs[index], self.threads, env, self.hold)
            process = self._context.Process(target=run_job, args=arguments, name=f"job {index}")
            with held_back():
                process.start()
            self.running[index] = process
            started.append(index)
        return started

    def ended(self, seconds: float) -> list[tuple[int, int]]:
        """Wait at most `seconds` until a job ends; return number and exit code of the jobs that have ended.

        The exit code of a killed process is -signal.
        """
        # A sentinel becomes ready when its process ends, however the process ends.
        ready = set(wait([process.sentinel for process in self.running.values()], timeout=seconds))
        found = []
        for index, process in list(self.running.items()):
            if process.sentinel in ready:
                process.join()
                del self.running[index]
                self._free.append(self._slot[index])
                found.append((index, process.exitcode))
        return found

    def send(self, signum: int) -> None:
        """Send a signal to all running jobs."""
        for process in self.running.values():
            if process.is_alive():
                os.kill(process.pid, signum)


def failure(exitcode: int) -> str | None:
    """Return why a process failed, None if it did not fail; the exit code of a killed process is -signal."""
    if exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"ended with exit code {exitcode}; see its run.log" if exitcode else None


def _redirect(directory: Path) -> None:
    """Send all output of this process, also of C code, to the run.log of a directory."""
    output = os.open(directory / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in outputs():
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[attr-defined]


def _leave_with_parent() -> None:
    """Ask this process to leave when the process that started it has died: nobody else would end the SLURM job."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGUSR2)


def run_job(job: FrozenJob, threads: int, env: dict[str, str], hold: bool = False) -> None:
    """Run one job in this fresh process; all output goes to the job's run.log."""
    if hold:
        threading.Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    if hold and job.trains:
        # The signals stay blocked until the run can act on them (train/signals.py). The handlers do nothing; without
        # them, a signal that comes after the last checkpoint would end a process that ends by itself.
        for signum in HELD:
            signal.signal(signum, lambda signum, frame: None)
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    import torch

    os.environ.update(env)
    if "SLURM_CPUS_PER_TASK" in os.environ:  # SLURM's number for all jobs of this machine together
        os.environ["SLURM_CPUS_PER_TASK"] = str(threads)
    torch.set_num_threads(threads)
    try:
        make_directory(job.directory)
        _redirect(job.directory)
        JobRunner()(job)
    except Exception as e:
        sys.exit(errors.report(e))
