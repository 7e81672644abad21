"""A throw-away SLURM cluster for the tests that need one: its own ports and directory, stopped by pid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import slurmlab

ROOT = Path(__file__).resolve().parents[2]

PARTITIONS = (  # urgent jobs preempt those in low, which get USR2 and then are requeued
    "PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20",
    "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF",
    "PreemptType=preempt/partition_prio",
    "PreemptMode=REQUEUE",
    "SlurmctldParameters=preempt_send_user_signal",
)


class Cluster:
    """Commands on a running cluster."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.directory = Path(facts["dir"])
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "WANDB_"))}
        self.env = {**outer, **facts["env"], "OMP_NUM_THREADS": "1"}

    def __call__(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=True).stdout

    def python(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS` in the project's directory to its end."""
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `python ARGUMENTS` in the project's directory."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=self.env, start_new_session=True, **pipes)

    def wait_for(self, what: str, ok: Callable[[], object], seconds: float = 120) -> Any:
        """Return what `ok` gives once it is true."""
        end = time.monotonic() + seconds
        while not (value := ok()):
            assert time.monotonic() < end, f"{what}: not in {seconds:.0f} s\n{self('squeue', '-t', 'all')}"
            time.sleep(0.2)
        return value

    def clear(self) -> None:
        """Leave no job behind."""
        subprocess.run(["scancel", "--user", str(os.getuid())], env=self.env, check=False)
        self.wait_for("empty queue", lambda: not self("squeue", "-h"), 60)


def _cluster(*options: str, accounting: str) -> Iterator[Cluster]:
    lack = slurmlab.missing(accounting)
    if lack:
        message = f"SLURM is not installed: no {' '.join(lack)}"
        if os.environ.get("FSAMLAB_REQUIRE_SLURM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    directory = Path(tempfile.mkdtemp(prefix="slurmlab-", dir="/tmp"))  # short: unix sockets live in it
    tool = [sys.executable, str(ROOT / "tests" / "support" / "slurmlab.py")]
    command = [*tool, "start", "--dir", str(directory), "--accounting", accounting, "--nodes", "3", *options]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield Cluster({**json.loads((directory / "cluster.json").read_text()), "dir": directory})
    finally:
        subprocess.run([*tool, "stop", "--dir", str(directory)], check=True)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    options = [word for line in PARTITIONS for word in ("--conf", line)]
    # a node that fails leaves its job's process behind for 7 s; a restart before that would find it
    yield from _cluster(*options, "--requeue-delay", "10", accounting="dbd")


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    yield running_cluster
    running_cluster.clear()


@pytest.fixture
def cluster_without_accounting() -> Iterator[Cluster]:
    yield from _cluster(accounting="none")
