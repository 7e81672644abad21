"""Second axis: the component d of the ascent gradient that is kept, relative to a reference r."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fsamlab.axes.axis import Choice, Part, table
from fsamlab.checks import number

if TYPE_CHECKING:
    from torch import Tensor

    from fsamlab.axes._ops import Ops, Tensors


@dataclass
class Component(Choice):
    """The part d of the ascent gradient a that is kept. A tensor without a reference yet keeps all of a.

    Attributes:
        takes_reference: whether the component is relative to a reference r.
        changes: whether d differs from a.
        linear: whether the component forms d = alpha a - beta m in the memory of a, and sets `alpha` and `beta` of
            the parts.
    """

    takes_reference: ClassVar[bool] = True
    changes: ClassVar[bool] = True
    linear: ClassVar[bool] = False

    @property
    def subtracted(self) -> float | None:
        """sigma if the component is d = a - sigma r, else None."""
        return None

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set part.d of every part.

        References read `part.a` afterwards. A component may overwrite `part.a` with alpha a - beta m alone, and then
        has to set `part.alpha` and `part.beta`, from which the ascent gradient is computed back.
        """
        raise NotImplementedError


@dataclass
class All(Component):
    """d = a."""

    name = "all"
    takes_reference = False
    changes = False

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d = a."""
        for part in parts:
            part.d = part.a


def subtract(part: Part, sigma: float, ops: Ops) -> None:
    """Set d = (1 - sigma on_a) a - sigma on_m m, in the memory of a, which saves one copy of the model."""
    part.alpha = 1 - sigma * part.on_a
    part.beta = sigma * part.on_m if part.m else 0.0
    if part.alpha != 1:
        ops.mul_(part.a, part.alpha)
    if part.beta != 0:
        ops.add_(part.a, part.m, alpha=-part.beta)
    part.d = part.a


@dataclass
class Subtract(Component):
    """d = a - sigma r (F-SAM, arXiv 2403.12350 and Algorithm 1)."""

    name = "subtract"
    linear = True
    sigma: float = number(1.0, -1e6, 1e6)

    @property
    def subtracted(self) -> float:
        """Return sigma."""
        return self.sigma

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d = a - sigma r."""
        for part in parts:
            subtract(part, self.sigma, ops)


@dataclass
class _Projection(Component):
    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d from the joint coefficient c = <a, r> / |r|^2; c = 0 for r = 0."""
        import torch  # not at the top: see axis.py

        from fsamlab.axes._ops import global_dot

        references = [part.reference(ops) for part in parts]
        known = [(part, r) for part, r in zip(parts, references) if r is not None]
        c: Tensor | None = None
        if known:
            r_all = [x for _, r in known for x in r]
            square = global_dot(r_all, r_all)
            c = global_dot([x for part, _ in known for x in part.a], r_all)
            c = torch.where(square == 0, 0.0, c / square)
        for part, r in zip(parts, references):
            part.d = part.a if r is None or c is None else self.kept(part.a, ops.scaled(r, c), ops)

    def kept(self, a: Tensors, projection: Tensors, ops: Ops) -> Tensors:
        """Return d, given a and its projection c r; the memory of the projection may be used for d."""
        raise NotImplementedError


@dataclass
class ProjectOut(_Projection):
    """d = a - (<a, r> / |r|^2) r: the batch-specific noise (SAM-noise, Figure 1)."""

    name = "project_out"

    def kept(self, a: Tensors, projection: Tensors, ops: Ops) -> Tensors:
        """Return a - c r."""
        ops.mul_(projection, -1.0)
        ops.add_(projection, a)
        return projection


@dataclass
class ProjectOn(_Projection):
    """d = (<a, r> / |r|^2) r: SAM-component, an addition. d turns against r where <a, r> is negative.

    Figure 1 of arXiv 2403.12350 has no such bar: its SAM-full goes along r itself (ascent=full).
    """

    name = "project_on"

    def kept(self, a: Tensors, projection: Tensors, ops: Ops) -> Tensors:
        """Return c r."""
        return projection


@dataclass
class ReferenceOnly(Component):
    """d = r (SAM-full with the EMA as estimate; VaSSO, arXiv 2309.15639)."""

    name = "reference"

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d = r."""
        for part in parts:
            r = part.reference(ops)
            part.d = part.a if r is None else r


COMPONENTS: dict[str, type[Component]] = table(All, Subtract, ProjectOut, ProjectOn, ReferenceOnly)
