"""Statistics of paired differences: t interval, one-sided tests, signs, and Holm's correction for several claims.

A pair is one seed: one draw of the split, the label noise and the initial weights, which all methods share. The
difference within a pair is free of what the draw does to both methods, so that fewer seeds are needed than for a
comparison of two means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats takes half a second and 60 MB to import


@dataclass(frozen=True)
class Paired:
    """The statistics of n paired differences.

    Attributes:
        n: number of pairs.
        mean: mean difference.
        std: standard deviation of the differences (n - 1); NaN for one pair.
        above: number of positive differences.
        below: number of negative differences.
    """

    n: int
    mean: float
    std: float
    above: int
    below: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> Paired:
        """Return the statistics of differences.

        Raises:
            ValueError: there is no difference, or a difference is not finite.
        """
        found = np.asarray(differences, dtype=np.float64)
        if not found.size or not np.isfinite(found).all():
            raise ValueError("paired statistics need at least one difference, and finite differences")
        std = float(found.std(ddof=1)) if found.size > 1 else math.nan
        above, below = int((found > 0).sum()), int((found < 0).sum())
        return cls(len(found), float(found.mean()), std, above, below)

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN for one pair."""
        return self.std / math.sqrt(self.n)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the t interval that covers the mean difference with probability 1 - alpha; NaN for one pair."""
        if self.n < 2:
            return math.nan, math.nan
        half = float(special.stdtrit(self.n - 1, 1 - alpha / 2)) * self.error
        return self.mean - half, self.mean + half

    def p_above(self, bound: float) -> float:
        """Return the p-value of `mean difference <= bound` in a one-sided t test; 1 for one pair.

        A small value shows that the mean difference lies above the bound.
        """
        if self.n < 2:
            return 1.0
        if self.error == 0:  # all differences are equal: the t statistic is infinite, or 0 / 0
            return 0.0 if self.mean > bound else 1.0
        return float(special.stdtr(self.n - 1, (bound - self.mean) / self.error))

    def p_below(self, bound: float) -> float:
        """Return the p-value of `mean difference >= bound` in a one-sided t test; 1 for one pair."""
        return Paired(self.n, -self.mean, self.std, self.below, self.above).p_above(-bound)

    @property
    def p_sign(self) -> float:
        """The two-sided p-value of the exact sign test, which does not assume a normal distribution; ties are left out.

        It is 1 if all differences are 0.
        """
        signs = self.above + self.below
        return min(1.0, 2 * float(special.bdtr(min(self.above, self.below), signs, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected by Holm's step-down method for the number of tests, in the order given.

    The probability that any of several true hypotheses is rejected at level alpha is then at most alpha, whatever the
    dependence between the tests (Holm 1979, "A simple sequentially rejective multiple test procedure").

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def pairs_needed(std: float, difference: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the number of pairs with which a two-sided t test finds a mean difference with probability `power`.

    Args:
        std: standard deviation of the paired differences, for example of a pilot.
        difference: the mean difference to be found, not 0.
        alpha: the level of the test.
        power: the probability, above alpha.

    Raises:
        ValueError: a value is outside its range.
    """
    if not (std >= 0 and difference and 0 < alpha < power < 1):
        raise ValueError("pairs_needed: std >= 0, difference not 0, 0 < alpha < power < 1")
    effect = abs(difference) / std if std else math.inf
    n = 2
    while effect < math.inf:
        critical = special.stdtrit(n - 1, 1 - alpha / 2)
        shift = effect * math.sqrt(n)
        if 1 - special.nctdtr(n - 1, shift, critical) + special.nctdtr(n - 1, shift, -critical) >= power:
            break
        n += 1
    return n
