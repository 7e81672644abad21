"""Gradients that a loop has accumulated before it calls step(closure), and that a pass at w + eps would not see.

A framework that accumulates runs a backward pass for each micro-batch, and calls step() with the closure of the last
one. The first pass of that closure would complete the gradient of all micro-batches; its second pass, at w + eps, makes
the gradient of the last micro-batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from fsamlab.axes.sharded import whole

BACKWARD_BEFORE = (
    "a loop that runs backward before step() calls ascend(), runs its batches again, then calls step() (docs/loops.md)"
)
_MARK = "_version_after_step"  # an attribute of the gradient itself: it goes when the gradient is freed


def _dense(params: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return each parameter that has a dense gradient, with the gradient."""
    found = ((p, p.grad) for p in params)
    return [(p, g) for p, g in found if g is not None and p.requires_grad and not g.is_sparse]


def mark_used(params: Iterable[Tensor]) -> None:
    """Mark the gradients as those of the step that ends here: a loop may leave them in p.grad until the next step."""
    for _, g in _dense(params):
        setattr(g, _MARK, g._version)  # writing in place counts the version up


def _used(g: Tensor) -> bool:
    """Return whether a gradient is that of the step before, not written to since then."""
    return getattr(g, _MARK, None) == g._version


@contextmanager
def _at_first_addition(params: Sequence[Tensor]) -> Iterator[dict[Tensor, Tensor | bool]]:
    """Yield a dict that says of p whether p.grad was not zero when backward first added to p.grad in the context.

    This is the one moment that tells zeroing from adding, whoever zeroes and in whichever way. fully_shard adds without
    autograd, and a pass may leave a parameter out: the dict then has no entry.
    """
    found: dict[Tensor, Tensor | bool] = {}

    def look(p: Tensor) -> None:
        if p not in found:
            # The host knows that p.grad was dropped, or that the last step's was written to, which is zeroing: a usual
            # loop does not wait for the device here. Gradients that came since then are looked at.
            g = p.grad
            found[p] = False if g is None or (p in last and not _used(g)) else g.detach().any()

    last = {p for p in params if p.grad is not None and _used(p.grad)}
    with torch.enable_grad():
        nodes = [get_gradient_edge(p).node for p in params]
    hooks = [node.register_prehook(lambda _, p=p: look(p)) for node, p in zip(nodes, params)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _any(flags: Iterable[Tensor | bool]) -> bool:
    """Return whether one of the flags is set; the host reads once, if one of them is on a device."""
    flags = list(flags)
    if any(flag is True for flag in flags):
        return True
    found = [whole(flag) for flag in flags if isinstance(flag, Tensor)]
    return bool(found) and bool(torch.stack([flag.to(found[0].device) for flag in found]).any())


class Accumulated:
    """The gradients of backward passes that ran since the last step; made before the first pass of a step.

    Args:
        params: the parameters of the optimizer.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        dense = _dense(params)
        self._new = {p: g for p, g in dense if not _used(g)}
        # Of the last step's gradients one is watched: hooks on all parameters in every step would cost.
        self._watched = list(self._new) or [p for p, _ in dense[-1:]]

    def guarded(self, descent: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return the closure of the descent batch, whose first run must not add to the gradients before step().

        An ascent takes gradients over, and a closure on other data zeroes them. Neither tells whether the descent
        closure zeroes: the gradients are put back before its first run.

        Raises:
            RuntimeError: by the returned function, where it adds to such gradients.
        """

        def run() -> Tensor:
            watched, self._watched = self._watched, []
            for p, g in self._new.items():
                p.grad = g
            self._new = {}
            before = [(p, p.grad, p.grad._version) for p in watched if p.grad is not None]
            if not before:
                return descent()
            with _at_first_addition([p for p, _, _ in before]) as found:
                loss = descent()
            for p, g, version in before:
                if p not in found and p.grad is g and g._version == version:
                    found[p] = g.any()
            if _any(found.values()):
                raise RuntimeError(
                    "the closure adds to gradients that were in p.grad before step(), and the pass at w + eps would "
                    "see the closure's batch alone: zero the gradients in the closure, and run all micro-batches of "
                    f"the step in the closure; or: {BACKWARD_BEFORE}"
                )
            return loss

        return run


def keeping(params: Iterable[Tensor], closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return the closure of the last micro-batch at w + eps, which must not zero the gradients of the others there.

    Raises:
        RuntimeError: by the returned function, where it zeroes them.
    """
    probe = [p for p, _ in _dense(params)[-1:]]  # ascend() left no gradients: these are of passes at w + eps

    def run() -> Tensor:
        before = [p.grad.any() for p in probe if p.grad is not None]
        with _at_first_addition(probe) as found:
            loss = closure()
        now = {p: p.grad.any() for p in probe if p.grad is not None}
        kept = {**now, **found}.values()  # a pass without a gradient of p has no entry in `found`
        if _any(before) and not _any(kept):
            raise RuntimeError(
                "the closure zeroes gradients of passes between ascend() and step(), whose batches would be lost: zero "
                "the gradients after step() (docs/loops.md)"
            )
        return loss

    return run
