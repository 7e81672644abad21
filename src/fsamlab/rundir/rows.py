"""The rows of metrics.jsonl: read, and mended where lines are damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fsamlab.rundir.reading import NUMBER
from fsamlab.storage.reading import read_json_lines

DAMAGED_ROWS = "metrics.jsonl.damaged"


def read_rows(directory: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.jsonl; a half-written last line (a running or killed run) is left out.

    Raises:
        Damaged: another line is no JSON object, or one without its step.
    """
    return read_json_lines(directory / "metrics.jsonl", {"step": NUMBER})


def mend_rows(content: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Return the rows in the bytes of a metrics.jsonl without damaged lines, as long as before, and the damaged lines.

    A line is damaged when it is no JSON object with a step above that of the row before. In its place the line before
    gets blanks at its end (the first one: the line after, at its start), which JSON allows, since the checkpoint tells
    the length of its rows in bytes.

    Returns:
        The bytes, and the damaged lines by their numbers, from 1.
    """
    kept: list[bytes] = []
    damaged: dict[int, bytes] = {}
    blanks, last = 0, float("-inf")
    for number, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+", content), start=1):
        step = _step(line)
        if step is not None and step > last and line.endswith(b"\n"):
            kept.append(b" " * blanks + line)
            blanks, last = 0, step
            continue
        damaged[number] = line.removesuffix(b"\n")
        if kept:
            kept[-1] = kept[-1][:-1] + b" " * len(line) + b"\n"
        else:
            blanks += len(line)
    return b"".join(kept) + b" " * blanks, damaged


def _step(line: bytes) -> float | None:
    """Return the step of a row, None where the line is none."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return float(step) if isinstance(step, int | float) and not isinstance(step, bool) else None
