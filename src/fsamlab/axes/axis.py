"""What a choice on any axis brings to the optimizer besides its arithmetic: its state, and when the state changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fsamlab.axes._ops import Ops, Tensors

State = Mapping[Tensor, dict[str, Any]]  # of each parameter; the choices' entries, not the base optimizer's


@dataclass
class Part:
    """Tensors of one step that share rho and the form of their reference, r = on_a a + on_m m.

    Attributes:
        rho: radius of their parameter group.
        on_a: weight of the ascent gradient in r.
        on_m: weight of the stored tensor in r.
        params: the parameters.
        states: the choices' state of each parameter.
        a: `alpha` times the ascent gradient minus `beta` m; the gradient itself until a component
            reuses its memory for d.
        m: the stored tensors (EMA or full gradient); empty where there are none yet.
        d: the direction, once the component has set it.
    """

    rho: float
    on_a: float
    on_m: float
    params: Tensors = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    a: Tensors = field(default_factory=list)
    m: Tensors = field(default_factory=list)
    d: Tensors = field(default_factory=list)
    alpha: float = 1.0
    beta: float = 0.0

    def ascent(self, ops: Ops) -> Tensors:
        """Return the ascent gradient, new tensors, also where a component has reused the memory of `a`."""
        found = ops.scaled(self.a, 1 / self.alpha)
        if self.beta != 0:
            ops.add_(found, self.m, alpha=self.beta / self.alpha)
        return found

    def reference(self, ops: Ops) -> Tensors | None:
        """Return r, not to be written to; None where there is no reference yet."""
        reused = self.alpha != 1 or self.beta != 0
        a = self.ascent(ops) if self.on_a and reused else self.a
        if not self.m:
            return ops.scaled(a, self.on_a) if self.on_a else None
        if not self.on_a:
            return self.m if self.on_m == 1 else ops.scaled(self.m, self.on_m)
        r = ops.scaled(self.m, self.on_m)
        ops.add_(r, a, alpha=self.on_a)
        return r


class Axis:
    """Base of all choices on all axes; the fields of a choice are in its class in fsamlab.axes.rules.

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


def step_seed(seed: int, step: int) -> int:
    """Return a generator seed for one step. Hashed, because CPU generators use its low 32 bits only."""
    return int.from_bytes(hashlib.blake2s(f"{seed}/{step}".encode(), digest_size=4).digest(), "little")
