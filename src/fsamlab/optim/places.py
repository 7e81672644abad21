"""Where an optimizer keeps the tensors that live beyond a step, and how these tensors keep their addresses.

Many of them are new tensors after a step: a mask chooses between old and new values, and a count is a sum. A CUDA graph
reads and writes the addresses of the step that it was captured from. So the new values are copied into the old tensors,
at the end of each step.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor

from fsamlab.optim.sharpness_aware import SharpnessAware

COUNTERS = ("num_floored", "_num_nonfinite")
Place = tuple[str, Any, str]  # whose, which one, the entry
_MISSING = object()


class Places:
    """The state of an optimizer: entries of the parameters, the base's and the choices', and counters."""

    def __init__(self, optimizer: SharpnessAware) -> None:
        self._optimizer = optimizer
        self._held: dict[Place, Any] = {}

    def _all(self) -> Iterator[tuple[Place, MutableMapping[str, Any]]]:
        optimizer = self._optimizer
        for i, p in enumerate(optimizer.parameters()):
            for whose, states in (
                ("state of the choices", optimizer._own),
                ("state of the base", optimizer.base.state),
            ):
                entries = states.get(p, {})
                yield from (((whose, i, key), entries) for key in list(entries))
        for axis, choice in optimizer.choices.by_axis().items():
            if choice is not None:
                yield from (((axis, choice.name, name), vars(choice)) for name in choice.values)
        yield from ((("counters", "", name), optimizer._shared) for name in COUNTERS)

    def tensors(self) -> dict[Place, Tensor]:
        """Return the tensors that are there now."""
        return {place: entries[place[2]] for place, entries in self._all() if isinstance(entries[place[2]], Tensor)}

    @torch.no_grad()
    def settle(self) -> list[Place]:
        """Copy what the step has made into the tensors of the step before.

        Returns:
            The places whose content has another form than before the step: a new tensor where there was none, or
            another number on the host. Nothing is copied there. A step with such a place cannot be repeated.
        """
        now = {place: (entries, entries[place[2]]) for place, entries in self._all()}
        news: dict[int, set[int]] = {}  # parameters may share a tensor; they have to share the new one as well
        for place, (_, new) in now.items():
            news.setdefault(id(self._held.get(place)), set()).add(id(new))
        changed = [place for place in self._held if place not in now]
        copies: dict[int, tuple[Tensor, Tensor]] = {}
        held: dict[Place, Any] = {}
        for place, (entries, new) in now.items():
            old = self._held.get(place, _MISSING)
            held[place] = new
            if not isinstance(new, Tensor):
                if isinstance(old, Tensor) or type(new) is not type(old) or new != old:
                    changed.append(place)
            elif not isinstance(old, Tensor) or not _alike(old, new) or len(news[id(old)]) > 1:
                changed.append(place)
            elif new is not old:
                copies[id(old)] = (old, new)
                held[place] = entries[place[2]] = old
        fixed = {id(tensor) for tensor in self._held.values()}
        made = [new.clone() if id(new) in fixed else new for _, new in copies.values()]
        for (old, _), new in zip(copies.values(), made):
            old.copy_(new)
        self._held = held
        return changed


def _alike(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.device == y.device
