"""The finished quantities of a measurement, stored until the whole row is written.

A measurement takes minutes to hours, and its job can be preempted in the middle. Each quantity is stored when it is
finished, so that the next attempt at the same measurement computes only the missing quantities.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fsamlab.storage.reading import Damaged, read_json
from fsamlab.storage.writing import write_json

log = logging.getLogger(__name__)

Values = dict[str, float]
SHAPE = {"of": dict, "values": {str: dict}}


class PartialMeasurement:
    """The finished quantities of one measurement, in a file.

    Args:
        path: the file; it may be missing.
        of: all that the values depend on (weights, data, settings, code, device), in types that JSON has. Values that
            were stored with another `of` are not used.
        guard: called before each write; it raises if the measurement must not continue.
    """

    def __init__(self, path: Path, of: Mapping[str, Any], guard: Callable[[], None]) -> None:
        self.path, self.of, self.guard = path, json.loads(json.dumps(of)), guard
        self.values: dict[str, Values] = {}
        try:
            found = read_json(path, SHAPE, required=("of", "values"))
        except Damaged as e:
            log.warning("%s; the finished quantities of an interrupted measurement are measured again", e)
            return
        if found is not None and found["of"] == self.of:
            self.values = found["values"]
            log.info("continuing a measurement that was interrupted after %s", ", ".join(self.values))

    def __call__(self, name: str, compute: Callable[[], Values]) -> Values:
        """Return the values of a quantity, stored or computed. Computed values are stored.

        Args:
            name: the name of the quantity in `diagnostics.quantities`.
            compute: measures the quantity.
        """
        if name not in self.values:
            self.values[name] = compute()
            self.guard()
            self.path.parent.mkdir(exist_ok=True)
            write_json(self.path, {"of": self.of, "values": self.values}, self.guard)
        return dict(self.values[name])
