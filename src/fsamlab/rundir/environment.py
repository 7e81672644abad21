"""Where a run ran: version of the code, versions of the libraries, machine. Never secrets."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from fsamlab import __version__
from fsamlab.config.project import HOME, code_digest, is_checkout, is_study

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "wandb", "fsamlab")
CODE = ("src", "conf", "sweeps", ":(glob)*.py")  # the last: modules beside launch.py, which settings name
MAX_UNTRACKED = 1_000_000  # bytes of a file; code and configurations are far smaller
# Facts that must be equal for bit-identical resuming.
DECISIVE = (
    "python",
    "machine",
    "cpu",
    "device_name",
    "num_threads",
    "num_ranks",
    "libraries",
)


def git_version(directory: Path) -> dict[str, Any]:
    """Return `{"sha", "dirty"}` of the work tree at `directory`; both None outside a repository."""

    def git(*args: str) -> str | None:
        try:
            return subprocess.run(
                ["git", "-C", str(directory), *args],
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=True,
                timeout=30,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    sha = git("rev-parse", "HEAD")
    status = git("status", "--porcelain") if sha else None
    return {"sha": sha, "dirty": None if status is None else bool(status)}


def code_version(project_root: Path) -> dict[str, Any]:
    """Return `{"sha", "dirty", "source", "fsamlab"}`.

    `sha` and `dirty` are those of the project, in a study folder those of the folder's own repository. `source` is a
    digest of the code of fsamlab, `fsamlab` its version; in a study folder with the code of a checkout, the version
    also names the commit of the checkout, as `0.1.0+3247bfc12.dirty`.
    """
    version = __version__
    if is_study(project_root) and is_checkout(HOME):
        code = git_version(HOME)
        version += f"+{code['sha'][:9]}{'.dirty' if code['dirty'] else ''}" if code["sha"] else ""
    return {**git_version(project_root), "source": code_digest()[:12], "fsamlab": version}


def uncommitted(project_root: Path) -> str:
    """Return the uncommitted changes of the work tree in the form of git; empty without changes or repository.

    The text also has the files below CODE that git neither tracks nor ignores, because a run may use them. A file of
    more than MAX_UNTRACKED bytes is only named.
    """

    def git(*args: str, expected: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(["git", "-C", str(project_root), *args], capture_output=True, timeout=30)
        if done.returncode not in expected:
            raise subprocess.SubprocessError(done.stderr)
        return done.stdout.decode("utf-8", "surrogateescape")  # any bytes survive the way in and out

    try:
        parts = [git("diff", "HEAD")]
        listed = git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
        for name in sorted(filter(None, listed.split("\0"))):
            size = (project_root / name).lstat().st_size
            if size > MAX_UNTRACKED:
                parts.append(f"# not tracked by git, and too large to be kept here ({size} bytes): {name}\n")
            else:  # git exits with 1 where the files differ, as a new file does from nothing
                parts.append(git("diff", "--no-index", "--binary", "--", os.devnull, name, expected=(0, 1)))
    except (OSError, subprocess.SubprocessError):
        return ""
    return "".join(parts)


def code_change(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return `<version> -> <version>` where src/ has changed since `before`; None where nothing changed or is known."""
    if before.get("source") in (None, now["source"]):
        return None

    def name(code: dict[str, Any]) -> str:
        sha, changes = code.get("sha"), " and changes" if code.get("dirty") else ""
        commit = f"commit {sha[:9]}{changes}, " if sha else ""
        return f"{commit}source {code['source']}"

    return f"{name(before)} -> {name(now)}"


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def environment(project_root: Path, device: Any, num_ranks: int = 1) -> dict[str, Any]:
    """Return the content of env.json.

    Args:
        project_root: the directory with src/.
        device: the torch device of the training.
        num_ranks: how many processes train the run together.
    """
    import torch

    def version(name: str) -> str | None:
        if name == "fsamlab":
            return __version__  # the code that runs; the metadata of an editable install may be older
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "git": code_version(project_root),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "num_ranks": num_ranks,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "slurm_job_id": slurm_job_id(),
    }


def slurm_job_id() -> str | None:
    """Return the SLURM job of this process as squeue prints it, `123` or `123_4`; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def decisive_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return `key: before -> now` for each fact that has changed and that bit-identical resuming depends on."""
    return [f"{key}: {before[key]} -> {now[key]}" for key in DECISIVE if key in before and before[key] != now[key]]
