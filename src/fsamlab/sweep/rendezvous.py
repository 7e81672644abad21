"""How the tasks of one job find each other: the variables of torch.distributed, set at the start of each task."""

from __future__ import annotations

import os
import socket

from fsamlab.ranks import quiet_torch

# Below the ports that Linux gives to outgoing connections (32768 to 60999), which any program may have at any moment.
FIRST_PORT, NUM_PORTS = 20000, 12768
PORTS_APART = 4099  # between two starts of a job; larger than the number of jobs that one node has at the same time
VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class NoRendezvous(RuntimeError):
    """A task cannot find the node of the first task."""


def task_number() -> int:
    """Return which task of its job this process is; 0 for the only task, and outside of submitit."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return 0
    from submitit import JobEnvironment  # on demand: only a job needs submitit here

    return int(JobEnvironment().global_rank)


def join_tasks() -> None:
    """Set the variables of torch.distributed, if this process is one of several tasks of a job of submitit.

    Raises:
        NoRendezvous: this node does not know the name of the first node.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit import JobEnvironment  # on demand, as above
    from submitit.helpers import TorchDistributedEnvironment

    for name in VARIABLES:  # of the shell that submitted the job
        os.environ.pop(name, None)
    place = TorchDistributedEnvironment()
    if place.world_size == 1:
        return
    place.master_port = port_of(JobEnvironment().raw_job_id, int(os.environ.get("SLURM_RESTART_COUNT", 0)))
    if place.local_world_size == place.world_size:
        place.master_addr = "127.0.0.1"
    # Each task keeps all GPUs that SLURM gave to the job on this node; LOCAL_RANK says which of them the task uses.
    quiet_torch()
    place.export(set_cuda_visible_devices=False, overwrite=True)
    try:
        socket.getaddrinfo(place.master_addr, place.master_port)
    except OSError as e:
        here, advice = socket.gethostname(), "the nodes have to resolve the names that SLURM gives them"
        raise NoRendezvous(f"{here} does not find the first node of the job, {place.master_addr}: {advice}") from e


def port_of(job_id: str, restart: int) -> int:
    """Return the port on which the first task of a job waits for the others.

    All tasks compute the same port without talking to each other. Jobs that run at the same time have numbers that lie
    near each other, so two jobs on one node have two ports. Another start of the same job has another port: a process
    of the earlier start may still live for some seconds.

    Args:
        job_id: the job's own number, SLURM_JOB_ID; each job of an array has one of its own.
        restart: how often SLURM has started the job again.
    """
    return FIRST_PORT + (int(job_id) + PORTS_APART * restart) % NUM_PORTS
