"""The tasks of a cluster job: how many processes train a run together; checked before the submission.

A task is one process with one GPU, or one process on CPUs. The tasks of a job are the ranks of torch.distributed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fsamlab.checks import ConfigError
from fsamlab.config import Config, from_plain
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
    def of(cls, params: Mapping[str, Any], cluster: str = "slurm", runs_per_job: int = 1) -> Tasks:
        """Return the tasks that the settings of a launcher ask for: one for each GPU, else `tasks_per_node`.

        A job that holds several runs has one task, which starts a process for each run.

        Raises:
            ConfigError: two settings contradict each other.
        """
        nodes, gpus, asked = (params.get(name) for name in ("nodes", "gpus_per_node", "tasks_per_node"))
        if runs_per_job > 1:
            for name, value in (("nodes", nodes), ("tasks_per_node", asked)):
                if (value or 1) > 1:
                    allowed = f"each run of the job is one process on one node: use {PREFIX}{name}=1"
                    raise ConfigError(f"{PREFIX}runs_per_job", runs_per_job, allowed)
            if (gpus or 0) > runs_per_job:
                allowed = f"each of the {runs_per_job} runs of a job uses one GPU at most"
                raise ConfigError(f"{PREFIX}gpus_per_node", gpus, allowed)
            asked = gpus = None
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
        return cls(nodes or 1, asked or gpus or 1, params.get("gpus_per_node") or 0)

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
        """Refuse jobs that cannot use these tasks. The run itself checks more: it knows the data.

        Raises:
            ConfigError: for the first such job.
        """
        for job in jobs:
            if self.number > 1 and not job.trains:
                raise ConfigError("hydra.launcher", self, "a measurement or an evaluation is one process: use one task")
            if job.trains:
                self._check_run(from_plain(job.config))

    def _check_run(self, config: Config) -> None:
        batch_size, parts = config.data.batch_size, config.train.accumulate_steps
        if config.train.perturbation == "per_rank":
            if self.number == 1:
                allowed = "needs several tasks: hydra.launcher.gpus_per_node=2, nodes=2 or tasks_per_node=2"
                raise ConfigError("train.perturbation", "per_rank", allowed)
            share = -(-batch_size // self.number)
            empty = share * (self.number - 1) >= batch_size
        else:
            empty = batch_size < self.number * parts
        if empty:
            more = f" and train.accumulate_steps={parts}" if parts > 1 else ""
            allowed = f"leaves a task without samples ({self}{more}): take fewer tasks or a larger batch"
            raise ConfigError("data.batch_size", batch_size, allowed)
