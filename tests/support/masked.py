"""Steps on the CPU as a GPU makes them: the host reads nothing, and masks take back a step that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch

from fsamlab.optim import ranks
from fsamlab.optim.counting import Counting


@contextmanager
def masked_steps() -> Iterator[None]:
    """Make the optimizers inside the context step as on a GPU."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Counting, "masks_on_cpu", True))
        for place in ("axes._ops", "optim.two_phase", "optim.length"):
            stack.enter_context(mock.patch(f"fsamlab.{place}.number", lambda x: x))
        cpu = torch.device("cpu")
        stack.enter_context(mock.patch.object(ranks, "_finite", lambda values: ranks._finite_tensor(values, cpu)))
        yield
