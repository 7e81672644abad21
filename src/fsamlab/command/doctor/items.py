"""One finding of the doctor, and the form in which a process of the doctor hands its findings to the doctor."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

# Seen: looked up, not tested. Note: something is missing or odd, and runs work all the same. Works and failed: tested.
SEEN, NOTE, WORKS, FAILED = "seen", "note", "works", "failed"
SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET = 6  # a shorter value would hide parts of ordinary words
MARK = "fsamlab-item "  # begins a line that holds an item; libraries print other lines


@dataclass(frozen=True)
class Item:
    """One finding.

    Attributes:
        topic: what was looked at or tested, unique in an examination.
        found: what was found, in a few words.
        state: SEEN, NOTE, WORKS or FAILED.
        advice: what the user can do; empty where nothing is to be done.
    """

    topic: str
    found: str
    state: str = SEEN
    advice: str = ""

    def line(self) -> str:
        """Return the item as one line of a process's output."""
        return MARK + json.dumps(asdict(self))


def emit(items: Iterable[Item]) -> None:
    """Print items as lines for the doctor, each at once: a process that hangs later keeps the earlier ones."""
    for item in items:
        print(item.line(), flush=True)


def parse(text: str) -> list[Item]:
    """Return the items in the output of a process."""
    return [Item(**json.loads(line.removeprefix(MARK))) for line in text.splitlines() if line.startswith(MARK)]


def without_secrets(text: str) -> str:
    """Return a text without values of secret variables, and without user names and passwords in addresses.

    Messages of tools and libraries may repeat such values.
    """
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return re.sub(r"//[^/\s@]+@", "//***@", text)
