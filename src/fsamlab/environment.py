"""Where a run ran: code version, library versions, machine. Never secrets."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "wandb", "fsamlab")
DECISIVE = ("python", "machine", "cpu", "device_name", "num_threads", "libraries")  # for bit-identity


def git_version(directory: Path) -> dict[str, Any]:
    """Return `{"sha", "dirty"}` of the work tree at `directory`; both None outside a repository."""

    def git(*args: str) -> str | None:
        try:
            return subprocess.run(
                ["git", "-C", str(directory), *args], capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    sha = git("rev-parse", "HEAD")
    status = git("status", "--porcelain") if sha else None
    return {"sha": sha, "dirty": None if status is None else bool(status)}


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def environment(project_root: Path, device: Any) -> dict[str, Any]:
    """Return what env.json holds; `device` is the torch device that is trained on."""
    import torch

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "git": git_version(project_root),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def decisive_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return `key: before -> now` for what bit-identical resuming depends on."""
    return [f"{key}: {before[key]} -> {now[key]}" for key in DECISIVE if key in before and before[key] != now[key]]
