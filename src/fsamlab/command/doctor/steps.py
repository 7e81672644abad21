"""A few steps of a real training on one device in each precision; on the CPU a checkpoint too."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsamlab.checks import Choice
from fsamlab.command.doctor.files import scratch
from fsamlab.command.doctor.items import FAILED, WORKS, Item
from fsamlab.config import Config, ConfigError, TrainConfig, typed
from fsamlab.config.compose import composing
from fsamlab.run import build
from fsamlab.rundir import checkpoint
from fsamlab.terminal.errors import one_line

STEPS = 3
TRAINING = (
    *("data=synthetic", "data.num_samples=160", "data.val_size=32", "data.test_size=32", "data.batch_size=32"),
    *("data.num_workers=0", "model=small_cnn", "model.width=4", "optimizer=fsam", "diagnostics=off", "tracker=none"),
    *("train.epochs=1", "train.progress=false", f"train.max_steps={STEPS}", "train.num_threads=null"),
)
WANTED = ("fp32", "bf16", "fp16")
# Relative difference of a loss near 2 to the loss of the CPU in fp32: sums of a few hundred products, in the precision.
CLOSE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2}


class Rows:
    """The observer of a training without a run directory: keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def row(self, row: dict[str, float]) -> None:
        """Keep a row."""
        self.rows.append(row)

    def poll(self) -> None:
        """Do nothing: no signal is waited for."""

    def stopping(self) -> bool:
        """Return False."""
        return False

    def boundary(self) -> None:
        """Do nothing: no checkpoint is written here."""


def steps(device: str, runs_dir: str) -> Iterator[Item]:
    """Yield whether a training works on a device (`cpu`, `cuda:0`): in each precision, and from a checkpoint."""
    place = torch.device(device)
    expected = _loss(trained(config("fp32"), torch.device("cpu")))
    for precision in precisions():
        topic = f"F-SAM on {device}, {precision}"
        try:
            yield judged(topic, trained(config(precision), place), expected, CLOSE[precision])
        except ConfigError as e:
            yield Item(topic, f"refused: {e}", FAILED, "use another train.precision")
        except (RuntimeError, OSError) as e:  # of the device or its libraries
            yield Item(topic, _said(e), FAILED, _advice(device))
    if device == "cpu":
        yield resumed(Path(runs_dir))


def precisions() -> list[str]:
    """Return the precisions to try, of those that this version of fsamlab knows."""
    known = next(f for f in TrainConfig.__dataclass_fields__.values() if f.name == "precision").metadata
    words = next(value for value in known.values() if isinstance(value, Choice)).allowed
    return [word for word in WANTED if word in words]


def config(precision: str) -> Config:
    """Return the configuration of the training."""
    from hydra import compose

    with composing():
        return typed(compose("config", overrides=[*TRAINING, f"train.precision={precision}"]))


def trained(cfg: Config, device: torch.device) -> Any:
    """Return the trainer after STEPS steps and an evaluation."""
    trainer = build(cfg, device)[0]
    trainer.fit(Rows())
    return trainer


def judged(topic: str, trainer: Any, expected: float, close: float) -> Item:
    """Return whether a training has made its steps with finite weights and the loss of the CPU."""
    loss = _loss(trainer)
    finite = all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
    if not finite or not math.isfinite(loss):
        return Item(topic, f"weights or loss ({loss}) are not finite after {trainer.step} steps", FAILED, _broken())
    if abs(loss - expected) > close * abs(expected):
        found = f"mean loss {loss:.4f}, on the CPU in fp32 {expected:.4f}"
        return Item(topic, found, FAILED, _broken())
    return Item(topic, f"{trainer.step} steps, mean loss {loss:.4f}", WORKS)


def resumed(runs_dir: Path) -> Item:
    """Return whether a training continues to the same bits from a checkpoint that was written in `runs_dir`."""
    topic = "checkpoint in runs_dir"
    try:
        with scratch(runs_dir) as place:
            whole = trained(config("fp32"), torch.device("cpu"))
            first = build(config("fp32"), torch.device("cpu"))[0]
            first.last_step = STEPS - 1
            first.fit(Rows())
            checkpoint.save(place, first.state_dict())
            size = (place / "last.pt").stat().st_size
            state = checkpoint.load(place / "last.pt")
    except OSError as e:
        return Item(topic, _said(e), FAILED, "another runs_dir=DIR, with space and the right to write")
    second = build(config("fp32"), torch.device("cpu"))[0]
    second.load_state_dict(state)
    second.fit(Rows())
    if not _same(whole.model.state_dict(), second.model.state_dict()):
        return Item(topic, "the training that continued has other weights", FAILED, _broken())
    return Item(topic, f"written ({size / 1e3:.0f} kB), read, continued to the same bits", WORKS)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _loss(trainer: Any) -> float:
    return float(trainer.last_row["train/loss"])


def _said(error: Exception) -> str:
    return one_line(error) or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _advice(device: str) -> str:
    if device == "cpu":
        return "no training works on this machine: install torch again"
    return f"train.device=cpu avoids the GPU; CUDA_VISIBLE_DEVICES without {device.partition(':')[2]} leaves it out"


def _broken() -> str:
    return "do not trust results of this device; `pytest -m gpu` in a checkout tells which part is wrong"
