"""What a choice on any axis brings to the optimizer besides its arithmetic: its state, and when the state changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fsamlab.optim._ops import Ops

if TYPE_CHECKING:
    from fsamlab.optim.component import Part

State = Mapping[Tensor, dict[str, Any]]  # of each parameter; the choices' entries, not the base optimizer's


class Axis:
    """Base of all choices on all axes; the fields of a choice are in its class in fsamlab.config.rules.

    The optimizer saves, loads and copies the state that these two lists name, and no other:

    Attributes:
        state_keys: entries that the choice keeps in the state of a parameter. A floating-point tensor of the
            parameter's shape is loaded in the parameter's dtype, any other value as it was saved.
        values: attributes of the choice itself (numbers) that change from step to step.
    """

    state_keys: ClassVar[tuple[str, ...]] = ()
    values: ClassVar[tuple[str, ...]] = ()

    def blank(self, p: Tensor) -> dict[str, Any]:
        """Return the entries for p before any step, of the types and shapes that they will have.

        A checkpoint reader that needs a place to load into gets them; training starts without entries.
        """
        return {key: torch.zeros_like(p) for key in self.state_keys}

    def commit(self, parts: list[Part], state: State, ops: Ops) -> None:
        """Take a perturbed step into the state, once its gradients are known to be finite.

        Before that a choice must not change its state: a skipped step leaves no trace.
        """
        for part in parts:
            self.update(part, state, ops)

    def update(self, part: Part, state: State, ops: Ops) -> None:
        """Take one part of such a step into the state; called by :meth:`commit`."""
