"""What every test gets: one torch thread, a fixed seed, no W&B account and no SLURM of the outer world."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from support.made_frames import frame, one_run

ROOT = Path(__file__).resolve().parents[1]

# `python -m pytest` lets Python find what lies in the working directory, `pytest` does not: no test may need that.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != ROOT]

# A shell starts what it puts into the background with SIGINT ignored, and all processes below inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    for key in list(os.environ):
        # COLUMNS: pytest-xdist gives its workers the width of a terminal, and a pipe has none
        if key.startswith(("WANDB_", "SLURM_", "SBATCH_")) or key == "COLUMNS":
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Take away the handlers that a test has given to the root logger: they hold its captured streams, closed later."""
    root = logging.getLogger()
    handlers, level = set(root.handlers), root.level
    yield
    for handler in set(root.handlers) - handlers:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run launch.py as a user would, runs below tmp_path, one thread; returns the finished process."""

    def run(
        *arguments: str, timeout: float = 300, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "launch.py", *arguments, f"runs_dir={tmp_path / 'runs'}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment)

    return run


@pytest.fixture
def composed() -> Iterator[Callable[..., object]]:
    """Compose the real conf/ with overrides; returns the typed Config."""
    from hydra import compose, initialize_config_dir

    from fsamlab.config import typed
    from fsamlab.config.compose import register

    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        yield lambda *overrides: typed(compose("config", overrides=list(overrides)))


@pytest.fixture
def methods() -> pd.DataFrame:
    """SGD .5 and .7; SAM .6, .9 and a failed run; F-SAM one seed."""
    return frame(
        one_run("sam", 0, 0.6),
        one_run("sam", 1, 0.9),
        {**one_run("sam", 2, 0.1), "status": "failed"},
        one_run("fsam", 0, 0.8),
        one_run("sgd", 0, 0.5),
        one_run("sgd", 1, 0.7),
    )
