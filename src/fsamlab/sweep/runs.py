"""Run directories: which there are, and what their own files say of them. Imports neither pandas nor torch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fsamlab.files import read_json
from fsamlab.ownership import why_alive
from fsamlab.record import read_status


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories at or one level below `paths`, sorted."""
    found: set[Path] = set()
    for path in paths:
        if (path / "config.yaml").exists():
            found.add(path)
        else:
            found.update(p.parent for p in path.glob("*/config.yaml"))
    return sorted(found)


def current_status(directory: Path) -> dict[str, Any]:
    """Return status.json, with `lost` for a run marked running whose process is gone."""
    status = read_status(directory)
    if status["status"] != "running":
        return status
    owner = read_json(directory / "owner.json")
    age = time.time() - (directory / "owner.json").stat().st_mtime if owner else 0.0
    if owner is None or owner.get("released") or why_alive(owner, age) is None:
        return {
            **status,
            "status": "lost",
            "exception": "its process is gone without a word (killed, out of memory?)",
        }
    return status
