"""How the jobs of a large sweep are divided into job arrays of SLURM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArrayPart:
    """The jobs of one array: those from `start` to before `stop`.

    Attributes:
        at_once: how many of its jobs may run at once.
        after: number of the array that has to end first; None if the array does not wait.
    """

    start: int
    stop: int
    at_once: int
    after: int | None


def arrays_of(num_jobs: int, max_size: int, at_once: int) -> list[ArrayPart]:
    """Divide jobs into arrays of at most `max_size`, so that at most `at_once` jobs of all arrays run at once.

    SLURM bounds only the jobs of one array. The arrays have equal lengths and share the bound. If there are more arrays
    than `at_once`, an array waits for the end of an earlier one.
    """
    number = -(-num_jobs // max_size)
    side_by_side = min(number, at_once)
    parts, start = [], 0
    for i in range(number):
        stop = start + num_jobs // number + (i < num_jobs % number)
        share = at_once // side_by_side + (i % side_by_side < at_once % side_by_side)
        parts.append(ArrayPart(start, stop, share, i - side_by_side if i >= side_by_side else None))
        start = stop
    return parts
