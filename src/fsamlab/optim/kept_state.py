"""The state of the choices as it was before a step, for a step that is left out after parts of it were committed."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

from torch import Tensor

from fsamlab.axes.choices import Choices


class KeptState:
    """A copy of what the choices keep: one copy of the EMA, where there is an EMA.

    Args:
        own: the choices' state of each parameter.
        choices: of the optimizer, with their changing values.
    """

    def __init__(self, own: defaultdict[Tensor, dict[str, Any]], choices: Choices) -> None:
        self.own, self.choices = own, choices
        self._entries = {p: {k: _copied(v) for k, v in entries.items()} for p, entries in own.items()}
        self._values = copy.deepcopy(choices.state())

    def give_back(self) -> None:
        """Put the copy in the place of what the choices have now; call this once."""
        self.own.clear()
        self.own.update(self._entries)
        self.choices.load_state(self._values)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
