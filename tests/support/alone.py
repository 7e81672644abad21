"""fsamlab.optim and fsamlab.diagnostics where only torch and numpy are installed: a program for a Python of its own.

The program hides every other installed distribution, then trains and measures. A test starts the file in a new process.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

ALONE = Path(__file__)
FORBIDDEN = ("yaml", "omegaconf", "hydra", "torchvision", "pandas")


def needed(name: str, found: set[str]) -> set[str]:
    """Return `found` and the distributions that a distribution needs, directly or not."""
    for line in importlib.metadata.requires(name) or []:
        other = re.split(r"[^\w.-]", line)[0]
        if "extra ==" not in line and other not in found:
            found.add(other)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                needed(other, found)
    return found


class TorchAndNumpy:
    """Finds what torch and numpy need, fsamlab, and modules of no distribution."""

    def __init__(self) -> None:
        names = needed("torch", needed("numpy", {"torch", "numpy"}))
        self.distributions = {n.lower().replace("_", "-") for n in names}
        self.owners = importlib.metadata.packages_distributions()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where a module lies; None for a hidden one."""
        top = name.partition(".")[0]
        own = {n.lower().replace("_", "-") for n in self.owners.get(top, [])}
        hidden = own and top != "fsamlab" and not own & self.distributions
        return None if hidden else PathFinder.find_spec(name, path, target)


def main() -> None:
    """Take a step, measure in two ways, say what happened."""
    sys.meta_path[sys.meta_path.index(PathFinder)] = TorchAndNumpy()  # type: ignore[call-overload]
    import torch
    from torch import nn

    from fsamlab.diagnostics import Diagnostics, Objective, Snapshot, hessian_eigenvalues, measuring, one_step
    from fsamlab.optim import FSAM

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    inputs, targets = torch.randn(160, 3), torch.randint(2, (160,))
    optimizer = FSAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    before = float(optimizer.step(closure).detach())
    assert float(optimizer.step(closure).detach()) < before
    with measuring(model, batchnorm="eval"):
        objective = Objective(model, [(inputs, targets)])
        assert one_step(objective, rho=0.05).total > 0
        assert hessian_eigenvalues(objective, num_top=1).top[0] > 0
    row = Diagnostics.of_loop((inputs, targets), batch_size=10).measure(Snapshot(model, optimizer, 2))
    assert row["curvature/lambda_max"] > 0
    assert -1 <= row["perturbation/cos_ema_full"] <= 1
    print("a step, 2 measurements; other packages:", [name for name in FORBIDDEN if name in sys.modules])


if __name__ == "__main__":
    main()
