"""Trainings by several processes, and the same training by one process, in float64; on the CPU unless said."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.multiprocessing as mp

from fsamlab.config import Config
from fsamlab.models import build_model
from fsamlab.ranks import Ranks
from fsamlab.run import assembly
from fsamlab.train import closures, compiled
from support.processes import FileFunction
from support.runs import Rows

KEPT_STEP = 3
SMALL = (  # 80 samples to train with: three batches of 24 and one of 8
    *("data.num_samples=120", "data.test_size=20", "data.val_size=20", "data.batch_size=24", "data.eval_batch_size=16"),
    *("model.width=2", "train.epochs=1", "diagnostics=off", "data.augment.cutout=2"),
)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Build models in float64, and take the loss in float64: two ways to one result agree to 1e-12.

    autocast leaves float64 as it is, so fp16 has its scaled gradients alone; and no compiler is needed.
    """

    def double(*args: Any, **keywords: Any) -> Any:
        model = build_model(*args, **keywords).double()
        model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
        return model

    with (
        mock.patch.object(assembly, "build_model", double),
        mock.patch.object(closures, "cast", lambda x, _: x),
        mock.patch.object(compiled, "BACKEND", "eager"),
    ):
        yield


def trained(
    config: Config, ranks: Ranks | None = None, state: Any = None, device: str = "cpu"
) -> tuple[dict[str, Any], Rows]:
    """Return weights and rows of a training, from the start or from a state; on the device of the ranks, if any."""
    with in_float64():
        trainer = assembly.build(config, torch.device(device) if ranks is None else ranks.device, ranks=ranks)[0]
        if state is not None:
            trainer.load_state_dict(state)
        observer = Kept(trainer)
        trainer.fit(observer)
    return trainer.model.state_dict(), observer


class Kept(Rows):
    """Keeps rows, and the state after KEPT_STEP as a file would."""

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self.trainer, self.state = trainer, None

    def boundary(self) -> None:
        """Keep the state; all ranks come here."""
        if self.trainer.step == KEPT_STEP:
            buffer = io.BytesIO()
            torch.save(self.trainer.state_dict(), buffer)
            self.state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def free_port() -> int:
    """Return a port that is free now."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def rank_main(rank: int, size: int, port: int, file: str, name: str, folder: str, device: str) -> None:
    """Run function `name` of `file` as one rank, and keep its result; an exception leaves its traceback."""
    work = torch.load(Path(folder) / "work.pt", weights_only=False)
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with Ranks.from_environment(torch.device(device), 1.0) as ranks:
        try:
            found = FileFunction(file, name)(ranks, work)
        except Exception:
            found = traceback.format_exc()
            print(found, file=sys.stderr)
        torch.save(found, Path(folder) / f"{rank}.pt")


def on_ranks(size: int, file: str, name: str, work: Any, folder: Path, device: str = "cpu") -> list[Any]:
    """Run function `name` of the test module `file`, with (ranks, work), in `size` processes; return all results."""
    folder.mkdir(exist_ok=True)
    torch.save(work, folder / "work.pt")
    mp.spawn(rank_main, args=(size, free_port(), file, name, str(folder), device), nprocs=size)
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]
    for one in found:
        assert not isinstance(one, str), one
    return found


def far(a: dict[str, Any], b: dict[str, Any], skip: str = "nothing") -> float:
    """Return the largest difference of two sets of weights, relative to the largest weight of each tensor.

    Entries whose name contains `skip` are left out.
    """
    assert a.keys() == b.keys()
    pairs = [(a[k], b[k]) for k in a if a[k].is_floating_point() and skip not in k]
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-3)) for x, y in pairs)
