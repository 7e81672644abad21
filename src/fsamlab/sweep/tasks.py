"""The tasks of a cluster job: how many processes train a run together; checked before the submission.

A task is one process with one GPU, or one process on CPUs. The tasks of a job are the ranks of torch.distributed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fsamlab.checks import ConfigError
from fsamlab.config import from_plain
from fsamlab.rundir.frozen_job import FrozenJob
from fsamlab.sweep.settings import PREFIX
from fsamlab.terminal.text import counted

FLAGS = ("nodes", "N", "ntasks", "n", "ntasks-per-node", "ntasks_per_node")  # sbatch's names for the two settings


@dataclass(frozen=True)
class Tasks:
    """How many tasks a job has, and on how many nodes.

    Attributes:
        nodes: the nodes of a job.
        per_node: the tasks on each node.
        gpus_per_node: the GPUs on each node; 0 without GPUs, or where another flag of sbatch asks for the GPUs.
    """

    nodes: int = 1
    per_node: int = 1
    gpus_per_node: int = 0

    @classmethod
    def of(cls, params: Mapping[str, Any], cluster: str = "slurm") -> Tasks:
        """Return the tasks that the settings of a launcher ask for: one for each GPU, else `tasks_per_node`.

        Raises:
            ConfigError: two settings contradict each other.
        """
        nodes, gpus, asked = (params.get(name) for name in ("nodes", "gpus_per_node", "tasks_per_node"))
        if gpus and asked is not None and asked != gpus:
            allowed = f"a task uses one GPU: with gpus_per_node={gpus} use {gpus}, or null, one task for each GPU"
            raise ConfigError(f"{PREFIX}tasks_per_node", asked, allowed)
        if cluster == "local" and (nodes or 1) > 1:
            raise ConfigError(f"{PREFIX}nodes", nodes, "cluster=local is this machine alone: use 1")
        for flag in FLAGS:
            if flag in (params.get("additional_parameters") or {}):
                key = f"{PREFIX}additional_parameters.{flag}"
                allowed = "say the number of tasks with hydra.launcher.nodes and hydra.launcher.tasks_per_node"
                raise ConfigError(key, params["additional_parameters"][flag], allowed)
        return cls(nodes or 1, asked or gpus or 1, gpus or 0)

    @property
    def number(self) -> int:
        """The tasks of a job."""
        return self.nodes * self.per_node

    def __str__(self) -> str:
        gpus = f", {counted(self.nodes * self.gpus_per_node, 'GPU')}" if self.gpus_per_node else ""
        return f"{counted(self.number, 'task')} on {counted(self.nodes, 'node')}{gpus}"

    def cost(self, timeout_min: int | None) -> str:
        """Return the GPU hours of a job until its time limit, as the end of a sentence; empty without GPUs or limit."""
        if not self.gpus_per_node or timeout_min is None:
            return ""
        return f": {self.nodes * self.gpus_per_node * timeout_min / 60:.5g} GPU hours until its time limit"

    def check(self, jobs: Iterable[FrozenJob]) -> None:
        """Refuse jobs that cannot use several tasks.

        Raises:
            ConfigError: for the first such job.
        """
        if self.number == 1:
            return
        for job in jobs:
            if not job.trains:
                raise ConfigError("hydra.launcher", self, "a measurement or an evaluation is one process: use one task")
            batch_size = from_plain(job.config).data.batch_size
            if batch_size % self.number:
                allowed = f"is divided among the tasks of a job: use a multiple of {self.number}, or another number of"
                raise ConfigError("data.batch_size", batch_size, f"{allowed} tasks (now {self})")
