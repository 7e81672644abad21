"""An optimizer whose steps can be captured as CUDA graphs and repeated, without the Python code of the step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from fsamlab.axes._ops import LOW_PRECISION
from fsamlab.axes.ascent import Ascent
from fsamlab.optim.fed import Fed
from fsamlab.optim.places import Place, Places
from fsamlab.optim.sharpness_aware import SharpnessAware


class Capturable:
    """The side of an optimizer that captured steps need; from here on the optimizer reads numbers from tensors.

    A step that runs as usual, with `before_step()` before and `settle()` after, gives the bits of a repeated one.

    Args:
        optimizer: on a base whose step reads nothing from the device. Its choices have no `uncapturable`.

    Attributes:
        replayed: the number of steps that were repetitions.
    """

    def __init__(self, optimizer: SharpnessAware) -> None:
        self.optimizer = optimizer
        self.places = Places(optimizer)
        self.replayed = 0
        dtypes = {p.dtype for p in optimizer.parameters()}
        self._fed = Fed(optimizer.device, torch.float32 if dtypes <= {torch.float32, *LOW_PRECISION} else torch.float64)
        optimizer.fed = self._fed
        for group in optimizer.param_groups:
            if "capturable" in group:  # Adam and AdamW refuse a capture without this flag
                group["capturable"] = True
        for axis, choice in optimizer.choices.by_axis().items():
            if choice is not None:
                choice.fed = partial(self._scheduled, axis)  # type: ignore[misc]
        self._draws = type(optimizer.choices.ascent).draw is not Ascent.draw

    def _scheduled(self, axis: str, schedule: Callable[[int], float]) -> Tensor:
        return self._fed.number((axis, schedule.__name__), lambda: schedule(self.optimizer.num_steps))

    def kind(self) -> Hashable | None:
        """Return what the Python code of the coming step goes by: steps of one kind run the same kernels.

        None for a step that has to run as usual: it makes a pass over the full training set.
        """
        optimizer, choices = self.optimizer, self.optimizer.choices
        perturbs, number = optimizer.perturbs, optimizer.num_steps
        if perturbs and choices.needs_full and optimizer.full_is_due:
            return None
        radii = optimizer.signed_radii()
        # of the radii of a schedule, only whether they are 0 decides what runs
        fixed = tuple(radii) if choices.radius.is_constant else tuple(rho == 0 for rho in radii)
        return perturbs, choices.acts_between(number), optimizer.record_scalars, fixed

    def before_step(self) -> None:
        """Fill what the coming step reads: learning rates, radii, numbers of schedules, random tensors."""
        optimizer = self.optimizer
        self._fed.fill()
        if self._draws and optimizer.perturbs:
            step = optimizer.coming_step()
            self._fed.keep(step.params, optimizer.choices.ascent.draw(step))

    def settle(self) -> list[Place]:
        """End a step: return the places of the state that have no address to stay at; see :class:`Places`."""
        return self.places.settle()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Run the code of a step inside, whose kernels are captured and do not run: the host counts no step."""
        optimizer, number = self.optimizer, self.optimizer.num_steps
        for p in optimizer.parameters():
            p.grad = None
        self._fed.closed = True
        try:
            yield
        finally:
            self._fed.closed = False
            optimizer.num_steps = number
            for p in optimizer.parameters():
                p.grad = None  # these tensors belong to the graph

    def was_replayed(self, scalars: dict[str, Tensor]) -> None:
        """Count a step that was repeated; `scalars` are those of the captured step, with the values of this one."""
        self.replayed += 1
        self.optimizer.num_steps += 1
        self.optimizer.scalars = dict(scalars)
