"""Seeds as pure functions of their purpose: there is no generator state to save or to lose.

Every random draw of a run comes from a generator with the seed `derive_seed(seed, stream, ...)`. The stream is the
purpose of the draw; the other numbers (epoch, step, batch number, sample index) tell which draw it is. So a resumed run
draws the values that an undisturbed run draws.
"""

from __future__ import annotations

from enum import IntEnum

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: keeps the all-zero input away from mix(0) = 0


class Stream(IntEnum):
    """The purpose of a seed. The values decide every run's numbers: add new values, never change the present ones."""

    SPLIT = 1
    LABEL_NOISE = 2
    ORDER = 3
    AUGMENT = 4
    OTHER_BATCH = 5
    FULL_PASS = 6
    SYNTHETIC = 7
    STEP = 8  # dropout and random directions of a training step
    INIT = 9  # initial weights
    PROBE = 10  # which samples diagnostics measure on, and their augmentation
    DIAGNOSTICS = 11  # random directions and start vectors of diagnostics
    MIX = 12  # mixup and CutMix


def derive_seed(*ints: int) -> int:
    """Hash integers to one seed in [0, 2**63), the same on every platform and in every version.

    Each value (modulo 2**64) is added to the running state, which then goes through the output function
    of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"). Order and
    number of the values matter. All bits are well mixed, so generators that use only the lower 32
    (torch's on the CPU) may be seeded with it.

    >>> derive_seed(0, 1), derive_seed(1, 0)
    (1534736266818221247, 3395948882924712079)
    """
    state = 0
    for value in ints:
        state = (state + value + _GAMMA) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1
