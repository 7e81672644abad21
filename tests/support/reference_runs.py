"""Run directories with the official recipe and made-up accuracies, to stand beside reference numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir

from fsamlab.config import to_plain, typed
from fsamlab.config.compose import register

from .runs import ROOT


@cache
def _recipe(overrides: tuple[str, ...]) -> dict[str, Any]:
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return to_plain(typed(compose("config", overrides=["experiment=cifar100_resnet18", *overrides])))


def put_run(
    directory: Path,
    *overrides: str,
    seed: int = 0,
    curve: Sequence[float] = (40.0, 70.0, 81.0, 80.8),
    status: str = "finished",
    **changed: Any,
) -> Path:
    """Write a run of `experiment=cifar100_resnet18` with test accuracies in per cent after each epoch.

    Args:
        directory: the run directory.
        overrides: words of launch.py; a few of them only, because Hydra composes each combination.
        seed: the seed.
        curve: test accuracies in per cent.
        status: `finished` writes a summary.
        changed: other values of dotted keys, with __ in place of the dot.
    """
    config = copy.deepcopy(_recipe(overrides)) | {"seed": seed}
    for key, value in changed.items():
        section, name = key.split("__")
        config[section][name] = value
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"step": 391 * e, "epoch": float(e), "time": 13.0 * e, "train/loss": 4.0 / e, "test/acc1": value / 100}
        for e, value in enumerate(curve, start=1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = 391 * len(curve)
    state = {"run_id": directory.name, "status": status, "exception": None, "step": steps, "last_step": steps}
    (directory / "status.json").write_text(json.dumps(state))
    if status == "finished":
        summary = {"final/test/acc1": curve[-1] / 100, "cost/step_ms": 30.0, "cost/steps": steps}
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory
