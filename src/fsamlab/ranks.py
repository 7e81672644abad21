"""The processes that train one run together: torch.distributed, or one process alone.

A launcher (torchrun, or SLURM through the start of a job) tells each process its place by environment variables. With
one process nothing here communicates. Numbers that the host needs (a signal, a time) go over the CPU by gloo, so that
no step waits for a GPU because of them; tensors go over the backend of their device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fsamlab.checks import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# torch is imported inside functions: `launch.py` asks for its place before it composes, and composing stays fast.

T = TypeVar("T")
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
BEAT_SECONDS = 1.0  # between two signs of life of a rank that works while the others wait


@dataclass(frozen=True)
class Place:
    """Where this process stands among the processes of its run: `rank` of `size`, and `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def place(environ: Mapping[str, str] = os.environ) -> Place:
    """Return the place of this process; reads the environment alone.

    torchrun's variables count first. SLURM's count only beside MASTER_ADDR and MASTER_PORT, which the start of a job
    sets: a shell inside an allocation has SLURM's variables too, and is no rank.

    Raises:
        ConfigError: a variable is missing, or is no number in its range.
    """
    names = TORCHRUN
    if not {"RANK", "WORLD_SIZE"} & environ.keys():
        if not set(ADDRESS) <= environ.keys() or not {"SLURM_PROCID", "SLURM_NTASKS"} <= environ.keys():
            return Place()
        names = SLURM
    found = []
    for name in names:
        value = environ.get(name, "0" if name == names[2] else None)
        if value is None or not value.isdecimal():
            raise ConfigError(name, value, "must be a whole number, as torchrun sets it; unset RANK and WORLD_SIZE")
        found.append(int(value))
    here = Place(*found)
    if not here.rank < here.size:
        raise ConfigError(names[0], here.rank, f"must be below {names[1]}={here.size}")
    missing = [name for name in ADDRESS if name not in environ]
    if here.size > 1 and missing:
        raise ConfigError(missing[0], None, f"must be set where {names[1]}={here.size}; torchrun sets it")
    return here


def quiet_torch() -> None:
    """Have torch print errors alone, unless the user has chosen a level; has an effect before torch is imported.

    DistributedDataParallel notes in each process that it looks for unused parameters and found none.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


class RankLost(RuntimeError):
    """Another rank of the run has failed, has died or does not answer; the training cannot go on."""


class Ranks:
    """The ranks of one run. With one process every method returns what it was given.

    Args:
        where: the place of this process.
        device: on which this rank trains.
        timeout_minutes: how long a rank waits for the others.
        store: torch.distributed's store, where a failing rank leaves its reason; None with one process.

    Attributes:
        rank, size, local_rank: the place.
        is_main: whether this is rank 0, which alone writes files and the screen.
    """

    def __init__(self, where: Place, device: torch.device, store: Any = None) -> None:
        self.rank, self.size, self.local_rank = where.rank, where.size, where.local_rank
        self.device, self._store = device, store

    @classmethod
    def alone(cls, device: torch.device) -> Ranks:
        """Return the ranks of a run with one process."""
        return cls(Place(), device)

    @classmethod
    @contextmanager
    def from_environment(cls, device: torch.device, timeout_minutes: float) -> Iterator[Ranks]:
        """Join the process group that the environment names, and leave the group at the end of the context.

        Backends: gloo for tensors on the CPU, nccl for tensors on CUDA. A rank on CUDA gets the GPU of its local rank.

        Args:
            device: the kind of device to train on.
            timeout_minutes: a rank that waits longer for another rank fails.

        Raises:
            ConfigError: the variables do not fit each other, or there are fewer GPUs than ranks on this machine.
            RankLost: the other ranks did not come.
        """
        where = place()
        if where.size == 1:
            yield cls(where, device)
            return
        import datetime

        import torch
        import torch.distributed as dist

        if device.type == "cuda":
            device = torch.device("cuda", _gpu(where, torch.cuda.device_count()))
            torch.cuda.set_device(device)
        timeout = datetime.timedelta(minutes=timeout_minutes)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store, _, _ = next(dist.rendezvous("env://", where.rank, where.size, timeout=timeout))
            store.set_timeout(timeout)
            dist.init_process_group(backend, store=store, rank=where.rank, world_size=where.size, timeout=timeout)
        except (dist.DistError, RuntimeError, ValueError) as e:
            raise RankLost(f"rank {where.rank} of {where.size} did not find the others: {_first_line(e)}") from e
        ranks = cls(where, device, dist.PrefixStore("fsamlab", store))
        with ranks.heard():
            yield ranks
        dist.destroy_process_group()  # after an error the process ends, and nccl would wait for ranks that are gone

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Tell the others why this rank fails; turn the error of a lost connection into a :class:`RankLost`."""
        try:
            yield
        except RankLost:
            raise
        except Exception as e:
            if self.size == 1:
                raise
            if _is_of_connection(e):
                raise RankLost(f"rank {self.rank} of {self.size} lost the others{self._why()}: {_first_line(e)}") from e
            self._store.set("failure", f"rank {self.rank}: {type(e).__name__}: {_first_line(e)}")
            raise

    def _why(self) -> str:
        """Return the reason that a failing rank has left, if one has left a reason."""
        try:
            return f" ({self._store.get('failure').decode()})" if self._store.check(["failure"]) else ""
        except RuntimeError:  # the store is gone with the rank that kept it
            return ""

    # ------------------------------------------------------------------------------- communication

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of `x` over the ranks, in a new tensor on its device."""
        return self._reduced(x, "SUM")

    def max(self, values: list[int]) -> list[int]:
        """Return the largest of each value over the ranks; over the CPU."""
        if self.size == 1:
            return values
        import torch

        found: list[int] = self._reduced(torch.tensor(values, dtype=torch.int64), "MAX").tolist()
        return found

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on some rank; over the CPU."""
        return bool(self.max([int(flag)])[0])

    def broadcast(self, value: T) -> T:
        """Return the value that rank 0 gives, any object that can be pickled; the other ranks' values are not read."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value if self.is_main else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def broadcast_tensors(self, tensors: list[Tensor]) -> None:
        """Write rank 0's values into the tensors of the other ranks."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks on rank 0, in the order of the ranks; elsewhere an empty list."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.max([0])

    @contextmanager
    def main_first(self, on: bool) -> Iterator[None]:
        """Run the context on rank 0 first and then on the others, if `on`: rank 0 downloads, the others find."""
        if on and not self.is_main:
            self.barrier()
        yield
        if on and self.is_main:
            self.barrier()

    def on_main(self, work: Callable[[Callable[[], bool]], T], stops: Callable[[], bool]) -> T | None:
        """Let rank 0 alone do long work, and return its result there; the other ranks wait, and get None.

        Rank 0 gives signs of life meanwhile, so that long work is no lost rank.

        Args:
            work: gets a function to call now and then, which returns whether some rank wants to stop. What `work`
                raises on rank 0 is raised there once the others have gone on.
            stops: whether this rank wants to stop.
        """
        if self.size == 1:
            return work(stops)
        if not self.is_main:
            while self.max([0, int(stops())])[0] == 0:
                pass
            return None
        import time

        last, answer = time.monotonic(), False

        def beat() -> bool:
            nonlocal last, answer
            if time.monotonic() - last > BEAT_SECONDS:
                answer = bool(self.max([0, int(stops())])[1])
                last = time.monotonic()
            return answer or stops()

        try:
            return work(beat)
        finally:
            self.max([1, 0])

    def _reduced(self, x: Tensor, operation: str) -> Tensor:
        if self.size == 1:
            return x
        import torch.distributed as dist

        x = x.detach().clone()
        dist.all_reduce(x, getattr(dist.ReduceOp, operation))
        return x


def _gpu(where: Place, num_gpus: int) -> int:
    """Return the number of the GPU of this rank. SLURM may show each task its own GPU alone.

    Raises:
        ConfigError: this machine has fewer GPUs than ranks.
    """
    if num_gpus == 1 and "SLURM_PROCID" in os.environ:
        return 0
    if where.local_rank >= num_gpus:
        allowed = f"this machine has {num_gpus} GPUs: start one process for each GPU, or use train.device=cpu"
        raise ConfigError("LOCAL_RANK", where.local_rank, allowed)
    return where.local_rank


def _is_of_connection(error: Exception) -> bool:
    """Return whether a collective has failed because another rank is gone or too late.

    gloo raises a plain RuntimeError; its messages name the place in gloo's source.
    """
    import torch.distributed as dist

    words = ("gloo/", "Connection closed by peer", "Timed out waiting", "caused pair closure", "NCCL", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in words)
    )


def _first_line(error: BaseException) -> str:
    """Return the first line of a message, without the place in gloo's source and without gloo's advice."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"^\[\S+:\d+\] ", "", line).split(". This is typically")[0][:300]
