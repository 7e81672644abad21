"""The perturbation's free scalars: vector operations on tensors that are there anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.optim._ops import Number, Ops, Tensors, global_dot, global_norm
from fsamlab.optim.component import Part, Reference


class Recorder:
    """Looks at a step's tensors before and after the direction is formed; changes none, waits for none."""

    def __init__(self, parts: list[Part], norm_a: Number, reference: Reference | None, ops: Ops) -> None:
        a = [x for part in parts for x in part.a]
        self.norm_a = torch.as_tensor(norm_a, dtype=torch.float64, device=a[0].device)
        self.ops, self.name = ops, reference.name if reference else ""
        self.a = ops.scaled(a, 1.0)  # the direction may be formed in a's own memory
        known = [part for part in parts if part.m]
        self.m = [x for part in known for x in part.m]
        self.dot = global_dot([x for part in known for x in part.a], self.m) if known else None

    def scalars(self, parts: list[Part], direction: Tensors) -> dict[str, Tensor]:
        """Return the scalars of docs/metrics.md, 0-dim tensors, before the EMA takes this step in."""
        norm_d = global_norm([x for part in parts for x in part.d], self.ops)
        cos_eps = global_dot(direction, self.a) / (global_norm(direction, self.ops) * self.norm_a)
        found = {"grad_norm": self.norm_a, "d_ratio": norm_d / self.norm_a, "cos_eps": cos_eps}
        if self.dot is not None:
            norm_m = global_norm(self.m, self.ops)
            found[f"{self.name}_norm"] = norm_m
            found[f"cos_{self.name}"] = self.dot / (norm_m * self.norm_a)
            found[f"{self.name}_coefficient"] = self.dot / norm_m**2
        return {f"perturbation/{key}": value for key, value in found.items()}
