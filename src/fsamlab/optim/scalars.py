"""The perturbation's free scalars: vector operations on tensors that are there anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.optim._ops import Number, Ops, Tensors, global_dot, global_norm
from fsamlab.optim.component import All, Part, Subtract
from fsamlab.optim.perturbation import Choices


class Recorder:
    """Looks at a step's tensors before and after the direction is formed; changes none, waits for none.

    F-SAM's own case takes two passes over a and m and no copy, since <d, a> = alpha |a|^2 - beta <a, m>.
    """

    def __init__(self, parts: list[Part], norm_a: Number, choices: Choices, ops: Ops) -> None:
        a = [x for part in parts for x in part.a]
        self.norm_a = torch.as_tensor(norm_a, dtype=torch.float64, device=a[0].device)
        self.ops, self.name = ops, choices.reference.name if choices.reference else ""
        known = [part for part in parts if part.m]
        self.m = [x for part in known for x in part.m]
        self.dot = global_dot([x for part in known for x in part.a], self.m) if known else None
        self.by_algebra = isinstance(choices.component, Subtract) and choices.metric.name == "l2" and len(parts) == 1
        overwritten = not isinstance(choices.component, All)  # the direction may be formed in a's own memory
        self.a = [] if self.by_algebra else ops.scaled(a, 1.0) if overwritten else a

    def scalars(self, parts: list[Part], norm_d: Number, direction: Tensors) -> dict[str, Tensor]:
        """Return the scalars of docs/metrics.md, 0-dim tensors, before the EMA takes this step in.

        Args:
            norm_d: |d|.
            direction: T^2 d, which eps is parallel to.
        """
        length = torch.as_tensor(norm_d, dtype=torch.float64, device=self.norm_a.device)
        if self.by_algebra:
            along = parts[0].alpha * self.norm_a**2 - (0.0 if self.dot is None else parts[0].beta * self.dot)
            cos_eps = along / (length * self.norm_a)
        else:
            cos_eps = global_dot(direction, self.a) / (global_norm(direction, self.ops) * self.norm_a)
        found = {"grad_norm": self.norm_a, "d_ratio": length / self.norm_a, "cos_eps": cos_eps}
        if self.dot is not None:
            norm_m = global_norm(self.m, self.ops)
            found[f"{self.name}_norm"] = norm_m
            found[f"cos_{self.name}"] = self.dot / (norm_m * self.norm_a)
            found[f"{self.name}_coefficient"] = self.dot / norm_m**2
        return {f"perturbation/{key}": value for key, value in found.items()}
