"""Run directories with known numbers, written without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ENVIRONMENT = {
    "git": {"sha": "0123456789abcdef", "dirty": True},
    "python": "3.11.7",
    "libraries": {"torch": "2.14.1", "torchvision": "0.29.1", "timm": "1.0.31", "fsamlab": "0.1.0"},
    "host": "node1",
    "cpu": "a CPU",
    "num_threads": 1,
    "device": "cpu",
    "device_name": None,
}


def accuracy(optimizer: str, seed: int, epoch: int) -> float:
    """A method's level, a seed's offset, and a rise with the epoch."""
    level = {"sgd": 0.5, "sam": 0.6, "fsam": 0.7}.get(optimizer, 0.4)
    return level + 0.01 * seed + 0.002 * epoch


def row(optimizer: str, seed: int, epoch: int) -> dict[str, Any]:
    return {
        "step": 10 * epoch,
        "epoch": float(epoch),
        "time": 2.0 * epoch + 0.1 * seed,
        "train/loss": 2.0 / epoch,
        "train/lr": 0.1 / epoch,
        "test/acc1": accuracy(optimizer, seed, epoch),
        "perturbation/cos_ema_full": 0.1 * epoch / (1 + seed),
        "perturbation/cos_ema_full_predicted": 0.9,
        "perturbation/full_share": 0.25,
        "perturbation/rise_batch_sam": 0.02 * epoch,
        "perturbation/rise_other_sam": 0.01 * epoch,
        "noise/trace_sigma": 10.0 * (1 + seed),
        "noise/grad_sq": 1.0 + 3 * seed,
        "noise/scale": 10.0 * (1 + seed) / (1.0 + 3 * seed),
    }


def make_run(
    directory: Path,
    optimizer: str = "sam",
    seed: int = 0,
    *,
    epochs: int = 5,
    status: str = "finished",
    exception: str | None = None,
    name: str = "made",
    rho: float = 0.2,
    model: str = "small_cnn",
    rows: list[dict[str, Any]] | None = None,
    summary: dict[str, Any] | None = None,
    run_id: str | None = None,
    measured: dict[str, Any] | None = None,
) -> Path:
    """Write a run directory of 5 epochs at 10 steps each; `rows` replaces the rows, `measured` is of the last step."""
    directory.mkdir(parents=True)
    config = {
        "name": name,
        "seed": seed,
        "optimizer": {"name": optimizer, "rho": rho, "ascent": "none" if optimizer in ("sgd", "sgd_2x") else "batch"},
        "model": {"name": model},
        "data": {"name": "digits", "batch_size": 32},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    times = {"started": "2026-01-01T10:00:00+00:00", "updated": "2026-01-01T10:05:00+00:00"}
    state = {"run_id": run_id, "status": status, "exception": exception, "step": 10 * epochs, "last_step": 50, **times}
    (directory / "status.json").write_text(json.dumps(state))
    (directory / "env.json").write_text(json.dumps(ENVIRONMENT))
    rows = [row(optimizer, seed, epoch) for epoch in range(1, epochs + 1)] if rows is None else rows
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if measured is not None:
        (directory / "measurements").mkdir()
        found = {"step": 10 * epochs, "epoch": float(epochs), "measured": "2026", "checkpoint": "last", **measured}
        (directory / "measurements" / "last.jsonl").write_text(json.dumps(found) + "\n")
    if status == "finished":
        last = rows[-1]
        summary = {**(summary or {})} | {f"final/{k}": v for k, v in last.items() if "/" in k}
        summary |= {"best/test/acc1": last["test/acc1"] - 0.1, "cost/step_ms": 10.0 if optimizer == "sgd" else 20.0}
        summary |= {"cost/train_seconds": 60.0, "cost/eval_seconds": 3.0, "cost/diagnostics_seconds": 1.0}
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def make_sweep(root: Path, optimizers: tuple[str, ...] = ("sgd", "sam", "fsam"), seeds: int = 3) -> Path:
    """Write the runs of several methods and seeds below `root`."""
    for optimizer in optimizers:
        for seed in range(seeds):
            make_run(root / f"{optimizer}-s{seed}", optimizer, seed)
    return root


def put(directory, name="sam", status="finished", exception=None, accuracy=0.5, **values):
    directory.mkdir(parents=True)
    config = {"name": "s", "seed": 0, "optimizer": {"name": name}, "model": {"name": name}, **values}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    state = {"status": status, "run_id": directory.name, "exception": exception, "warnings": [name]}
    (directory / "status.json").write_text(json.dumps(state))
    (directory / "run.log").write_text("")
    if status == "finished":
        found = {"final/test/acc1": accuracy, "cost/step_ms": 1.0}
        (directory / "summary.json").write_text(json.dumps(found))
    return directory
