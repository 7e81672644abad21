"""Imports of large libraries without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import inside the block without the garbage collector; what was imported stays out of all later collections.

    An import of torch makes half a million objects, nearly all of which live as long as the program. The collector
    would go through these objects again and again: an eighth of the time of the import.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
