"""Gradients that a loop has accumulated before it calls step(closure), and that the pass at w + eps would not see.

A framework that accumulates runs a backward pass for each micro-batch, and calls step() with the closure of the last
one. The first pass of that closure completes the gradient of all micro-batches; its second pass, at w + eps, would make
the gradient of the last micro-batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from fsamlab.axes.sharded import whole

BACKWARD_BEFORE = (
    "a loop that runs backward before step() calls ascend(), runs its batches again, then calls step() (docs/loops.md)"
)
_MARK = "_version_after_step"  # an attribute of the gradient itself: it goes when the gradient is freed


def _last_with_gradient(params: Sequence[Tensor]) -> Tensor | None:
    """Return the last parameter that has a dense gradient; one parameter tells whether a backward pass ran."""
    return next((p for p in reversed(params) if p.grad is not None and not p.grad.is_sparse), None)


def mark_used(params: Sequence[Tensor]) -> None:
    """Mark the gradients as those of the step that ends here: a loop may leave them in p.grad until the next step."""
    p = _last_with_gradient(params)
    if p is not None:
        setattr(p.grad, _MARK, p.grad._version)  # type: ignore[union-attr]  # writing in place counts the version up


class Accumulated:
    """The gradient of backward passes that ran since the last step; made before the first pass of a step.

    Args:
        params: the parameters of the optimizer.
        num_zeroed: returns how often the optimizer's zero_grad() has been called.
    """

    def __init__(self, params: Sequence[Tensor], num_zeroed: Callable[[], int]) -> None:
        self._num_zeroed, self._zeroed_before = num_zeroed, num_zeroed()
        self._p = _last_with_gradient(params)
        self._gradient = None if self._p is None else self._p.grad
        if self._gradient is not None and getattr(self._gradient, _MARK, None) == self._gradient._version:
            self._gradient = None  # the last step's
        # A gradient that was zeroed in place is no one's; read only if the closure keeps the gradient.
        self._any = None if self._gradient is None else (self._gradient != 0).any()

    def put_back(self) -> None:
        """Undo an ascent's `p.grad = None`, so that the closure of the second pass shows whether it zeroes."""
        if self._p is not None and self._gradient is not None:
            self._p.grad = self._gradient

    def settled(self) -> bool:
        """Return whether there is nothing to refuse: no such gradient, or a closure has zeroed it."""
        if self._p is None or self._gradient is None:
            return True
        if self._p.grad is not self._gradient or self._num_zeroed() > self._zeroed_before:
            self._gradient = None
            return True
        assert self._any is not None
        return not whole(self._any)

    def refuse(self) -> None:
        """Refuse a closure that has added to the gradient.

        Raises:
            RuntimeError: it has.
        """
        if not self.settled():
            raise RuntimeError(
                "the closure adds to gradients that were in p.grad before step(), and the pass at w + eps would see "
                "the closure's batch alone: zero the gradients in the closure, and run all micro-batches of the step "
                f"in the closure; or: {BACKWARD_BEFORE}"
            )
