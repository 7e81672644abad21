"""The passes over data: a closure with its loss checked, and what a pass must not count twice."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.axes._ops import Tensors
from fsamlab.axes.axis import Pass
from fsamlab.axes.choices import Choices
from fsamlab.axes.sharded import whole
from fsamlab.optim.accumulation import BACKWARD_BEFORE
from fsamlab.optim.guards import RngState, frozen_batchnorm, replayed_rng, seen_batchnorms

Closure = Callable[[], Tensor | Pass]  # a float is taken as well
Checked = Callable[[], Tensor]  # a closure whose loss is a 0-dim tensor


def refuse_two_phases(choices: Choices, same_rng: bool) -> None:
    """Refuse to make the passes of a step in two calls, where step() alone can see to the passes.

    Raises:
        RuntimeError: why.
    """
    what = ""
    if choices.needs_full:
        what = f"{choices.words()} needs a pass over the full training set of its own"
    elif choices.descent.selects:
        what = f"descent={choices.descent.name} needs a pass on a part of the descent batch"
    elif not choices.ascent.two_phase:
        what = f"{choices.words()} needs further passes over the descent batch"
    elif same_rng:
        what = "same_rng=True replays the random state of the first pass"
    if what:
        raise RuntimeError(f"{what}, which ascend() cannot make: use step(closure, ascent_closure, reference_closure)")


class Passes:
    """Runs the closures of a step.

    Attributes:
        sample_losses: of the passes over the descent batch in this step, where the closure returned them.
    """

    def __init__(self, choices: Choices, model: nn.Module | None) -> None:
        self.choices, self.model = choices, model
        self.sample_losses: Tensors = []
        self._selectable: Any = None  # the closure of the descent batch, where the descent selects samples
        self._looked = model is not None  # for batch norms that count a batch twice

    def checked(self, closure: Closure, device: torch.device) -> Checked:
        """Return the closure with gradients enabled and its loss as a 0-dim tensor; the losses of samples are kept.

        Raises:
            TypeError: the descent selects samples, and the closure cannot run on a part of its batch.
        """
        if self.choices.descent.selects:
            if not (hasattr(closure, "losses") and hasattr(closure, "on")):
                raise TypeError(
                    f"descent={self.choices.descent.name} runs the pass at w + eps on a part of the batch: give step() "
                    "a closure with losses() and on(indices), for example fsamlab.optim.SampleClosure"
                )
            self._selectable = closure

        def run() -> Tensor:
            with torch.enable_grad():
                loss = closure()
            if isinstance(loss, Pass) or self.choices.needs_sample_losses:
                loss = self._take_sample_losses(loss)
            if isinstance(loss, numbers.Real):
                return torch.full((), float(loss), device=device)  # torch.tensor() would wait for the copy
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
                hint = f"; {BACKWARD_BEFORE}" if loss is None else ""
                raise TypeError(f"a closure returned {shape}: it has to return the loss, one number{hint}")
            return whole(loss) if loss.dim() == 0 else loss.reshape(())

        return run

    def _take_sample_losses(self, made: Tensor | Pass) -> Any:
        """Keep the losses of the samples; return the loss of the batch.

        Raises:
            TypeError: a choice needs the losses of the samples, and the closure returned none.
        """
        losses = made.sample_losses if isinstance(made, Pass) else None
        if losses is None and self.choices.needs_sample_losses:
            who = next(f"{axis}={c.name}" for axis, c in self.choices.by_axis().items() if c and c.needs_sample_losses)
            raise TypeError(f"{who} needs the losses of the samples: return fsamlab.optim.Pass(loss, sample_losses)")
        if losses is not None:
            self.sample_losses = [*self.sample_losses, losses.detach()]
        return made.loss if isinstance(made, Pass) else made

    def elsewhere(self, closure: Closure | None, name: str, data: str) -> None:
        """Run a closure on data other than the descent batch; batch norms do not count these data.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise ValueError(f"{self.choices.words()} needs {name}: zero_grad, forward, backward on {data}")
        with frozen_batchnorm(self.model) if self.model is not None else nullcontext():
            torch.enable_grad()(closure)()

    def climb(self, descent: Checked, counted: bool, random: RngState | None, further: Callable[[], bool]) -> Tensors:
        """Run the descent batch at the end of each ascent step; return the losses.

        Args:
            descent: the checked closure.
            counted, random: see :meth:`perturbed`.
            further: moves the weights on along the gradients of the last pass; tells whether the step may go on.
        """
        losses = [self.perturbed(descent, counted, random)]
        while len(losses) < self.choices.ascent.num_ascents and further():
            losses.append(self.perturbed(descent, counted, random))
        return losses

    def perturbed(self, descent: Checked, counted: bool, random: RngState | None) -> Tensor:
        """Run the descent batch at w + eps; return its loss.

        Args:
            descent: the checked closure.
            counted: whether a clean pass over the batch was made, so that batch norms have counted the batch.
            random: the random state to replay; None goes on with the present one.
        """
        if counted and not self._looked:
            self._looked = True  # the first time tells: a hook in every step would cost
            with seen_batchnorms() as seen:
                loss = self.perturbed(descent, counted, random)
            if seen:
                warnings.warn(
                    f"{seen[0]} counts each batch twice in its running statistics, at w and at w + eps: "
                    "give the optimizer the model, as model=",
                    stacklevel=4,
                )
            return loss
        model = self.model if counted else None
        with frozen_batchnorm(model) if model is not None else nullcontext():
            if self.choices.descent.selects:
                with self._replayed(random, counted), torch.no_grad():
                    after = self._selectable.losses()
                samples = self.choices.descent.select(self.sample_losses[0], after)
                descent = partial(self._on, samples, after.device)
            with self._replayed(random, counted):
                return descent().detach()

    def _on(self, samples: Tensor, device: torch.device) -> Tensor:
        """Run the closure of the descent batch on some of its samples; return their mean loss."""
        with torch.enable_grad():
            loss = self._take_sample_losses(self._selectable.on(samples))
        return torch.as_tensor(loss, device=device)

    @staticmethod
    def _replayed(random: RngState | None, counted: bool) -> AbstractContextManager[None]:
        return replayed_rng(random) if random is not None and counted else nullcontext()
