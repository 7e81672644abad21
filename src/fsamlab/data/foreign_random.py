"""Random draws of libraries that know only the global generators of Python and numpy, as functions of a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy inside, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
