"""The rows of metrics.jsonl: reading them, and mending a file with damaged lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fsamlab.rundir.reading import NUMBER
from fsamlab.storage.reading import read_json_lines

DAMAGED_ROWS = "metrics.jsonl.damaged"


def read_rows(directory: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.jsonl. An unfinished last line (the run writes, or was killed) is left out.

    Raises:
        Damaged: a finished line is not a JSON object with a step.
    """
    return read_json_lines(directory / "metrics.jsonl", {"step": NUMBER})


def mend_rows(content: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Replace the damaged lines in the content of a metrics.jsonl by blanks; the length stays the same.

    A line is damaged when it is not a JSON object with a step above the step of the row before. The blanks go to the
    end of the line before (for a damaged first line: to the start of the line after), where JSON allows blanks. The
    length must stay, because the checkpoint stores the length of its rows in bytes.

    Returns:
        The mended content, and the damaged lines by their numbers, counted from 1.
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
    """Return the step of a row; None where the line is not a row."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return float(step) if isinstance(step, int | float) and not isinstance(step, bool) else None
