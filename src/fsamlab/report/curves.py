"""Makes the curves of the page from the rows of runs: one curve for each run and metric, with fewer points.

Curves with the same steps share one grid, which is written once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fsamlab.rundir.row_file import Rows

AXES = ("step", "epoch", "time")
MAX_POINTS, MIN_POINTS = 400, 24  # of a curve: about one for each pixel of a chart; enough to see the shape
DIGITS = 4


def number(value: Any, digits: int = DIGITS) -> float | None:
    """Return a number with `digits` significant digits; None if it is not a finite number (JSON has no NaN)."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def points_per_curve(num_curves: int) -> int:
    """Return how many points of each curve a page keeps if it has `num_curves` curves.

    Because of the root, a page with ten times the curves is only three times as large: 600 curves (30 runs) have 122
    points each, together half a megabyte; 40,000 curves (2,000 runs) have 24 points each, together 7 MB.
    """
    return max(MIN_POINTS, min(MAX_POINTS, int(3000 / math.sqrt(max(1, num_curves)))))


def thin(indices: Sequence[int] | np.ndarray, num_points: int) -> list[int]:
    """Return at most `num_points` of `indices`, evenly spaced, with the first and the last."""
    found = np.asarray(indices)
    if len(found) > num_points:
        found = found[np.linspace(0, len(found) - 1, num_points).round().astype(int)]
    return [int(i) for i in found]


@dataclass
class Curves:
    """The curves of many runs, ready for JSON.

    Attributes:
        num_points: the largest number of points that a curve keeps.
        grids: `{"step": [...], "epoch": [...]}`; curves with the same steps share a grid.
        by_metric: metric -> `[run, grid, values]` for each run that has the metric; values that are not finite are
            None.
        times: `"run grid"` -> seconds at the points of a grid, which differ between runs.
        longest: number of points of the longest curve before thinning.
        not_finite: metric -> number of kept values that are NaN or infinite.
    """

    num_points: int
    grids: list[dict[str, list[float | None]]] = field(default_factory=list)
    by_metric: dict[str, list[tuple[int, int, list[float | None]]]] = field(default_factory=lambda: defaultdict(list))
    times: dict[str, list[float | None]] = field(default_factory=dict)
    longest: int = 0
    not_finite: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _numbers: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def add(self, run: int, rows: Rows) -> None:
        """Add the curves of run number `run`, one for every key with a slash that has numbers."""
        having: dict[str, tuple[int, ...]] = defaultdict(tuple)  # key -> the kinds of rows that have it
        for keys, kind in rows.kinds.items():
            for key in keys:
                having[key] += (kind,)
        kind_of = np.asarray(rows.kind_of)
        kept: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for key, which in having.items():
            if "/" not in key:
                continue
            if which not in kept:
                indices = np.flatnonzero(np.isin(kind_of, which))
                self.longest = max(self.longest, len(indices))
                # of a large file, only the rows of the points that the page keeps are in memory
                kept[which] = [rows[i] for i in thin(indices, self.num_points)]
            values = [row[key] for row in kept[which]]
            numbers = [number(value) for value in values]
            self.not_finite[key] += sum(n is None and isinstance(v, float) for n, v in zip(numbers, values))
            if any(n is not None for n in numbers):
                grid = self._grid(run, kept[which])
                self.by_metric[key].append((run, grid, numbers))

    def _grid(self, run: int, rows: Sequence[dict[str, Any]]) -> int:
        """Return the number of the grid with the steps of these rows."""
        steps, epochs = ([number(row.get(axis), 6) for row in rows] for axis in ("step", "epoch"))
        grid = self._numbers.setdefault((*steps, *epochs), len(self.grids))
        if grid == len(self.grids):
            self.grids.append({"step": steps, "epoch": epochs})
        self.times[f"{run} {grid}"] = [number(row.get("time"), 5) for row in rows]
        return grid

    @property
    def thinned(self) -> bool:
        """Whether any curve has lost points."""
        return self.longest > self.num_points

    @property
    def without_values(self) -> list[str]:
        """The metrics without a curve, because all their values are NaN or infinite."""
        return [key for key, count in self.not_finite.items() if count and key not in self.by_metric]

    def as_dict(self) -> dict[str, Any]:
        """Return the data for the page."""
        return {"grids": self.grids, "curves": self.by_metric, "times": self.times, "thinned": self.thinned}
