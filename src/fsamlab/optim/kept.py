"""What a step may change, kept while the step runs: an unread verdict decides afterwards what stays of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fsamlab.axes._ops import Tensors
from fsamlab.axes.axis import FULL_GRADIENT
from fsamlab.axes.choices import Choices
from fsamlab.optim.verdict import Mask, Verdict, masks_itself, telling

State = dict[str, Any]
_NUMBER = "_stands_for_a_number"  # an attribute of a tensor that a mask has made of a Python number
_MISSING = object()


def as_saved(entries: State) -> State:
    """Return the entries with Python numbers where masks have made tensors of numbers; the host reads these tensors."""
    return {key: value.item() if hasattr(value, _NUMBER) else value for key, value in entries.items()}


class Kept:
    """The values before a step: of the states, of the numbers that the choices change, and of the weights.

    A mask needs the same entries before and after the step. A step may make or drop entries, or change an entry that no
    mask reaches: the first step does so, as a rule, and each step of an Adam that is neither `fused` nor `capturable`
    and counts its steps on the CPU. In such a step the host reads the verdict, once.

    The copies live until the step ends, when the activations of its passes are freed already. A base that masks itself
    needs no copies, and weights that were perturbed have a copy already.

    Args:
        choices: whose `values` are numbers that a step may change.
        own: the choices' state of each parameter; None where no choice acts.
        params: the parameters of the optimizer.
        base: the optimizer that steps; None where it does not.
        saved: the weights before the step, of the parameters that have a copy.
        writes: whether others than the base write to the weights.
    """

    def __init__(
        self,
        choices: Choices,
        own: Mapping[Tensor, State] | None,
        params: Tensors,
        base: Optimizer | None = None,
        saved: Mapping[Tensor, Tensor] | None = None,
        writes: bool = False,
    ) -> None:
        acting = choices.made() if own is not None else ()
        self._values = [(c, {name: _with_copy(getattr(c, name)) for name in c.values}) for c in acting]
        self._base, self._masked_base = base, base is not None and masks_itself(base)
        self._copies: dict[int, tuple[Tensor, Tensor, int]] = {}  # by id: parameters may share an entry
        self._made: dict[tuple[int, int], Tensor] = {}  # the same for the tensors that a mask makes
        self._held: list[Any] = []
        self._own = [(own[p], dict(own[p])) for p in params] if own is not None else []
        self._of_base: list[tuple[Tensor, State]] = []
        self._weights: list[tuple[Tensor, Tensor]] = []
        for _, before in self._own:
            self._copy(before)
        if base is not None:
            self._of_base = [(p, dict(base.state.get(p, {}))) for p in params]
            if not self._masked_base:
                for _, before in self._of_base:
                    self._copy(before)
            if writes or not self._masked_base:
                known = saved or {}
                self._weights = [(p, known[p] if p in known else p.detach().clone()) for p in params]

    def _copy(self, entries: State) -> None:
        for key, value in entries.items():
            if isinstance(value, Tensor) and key != FULL_GRADIENT and id(value) not in self._copies:
                self._copies[id(value)] = value, value.clone(), value._version

    @torch.no_grad()
    def run(self, work: Callable[[], None], verdict: Tensor) -> bool:
        """Run the rest of a step, and leave no trace of the work where the verdict is false.

        Returns:
            False if the host knows that the step was taken back.
        """
        assert self._base is not None or not self._masked_base
        try:
            with telling(self._base, verdict) if self._base and self._masked_base else nullcontext():
                work()
        finally:
            stays = self.choose(verdict)
        return stays

    @torch.no_grad()
    def choose(self, verdict: Verdict) -> bool:
        """Take back what was done since this object was made, where the verdict is false; see :meth:`run`."""
        if isinstance(verdict, bool):
            if not verdict:
                self._go_back()
            return verdict
        mask = Mask(verdict)
        mask.choose_([p for p, _ in self._weights], [old for _, old in self._weights])
        same = [x for x, _, _ in self._copies.values() if self._reaches(verdict, x) and not hasattr(x, _NUMBER)]
        mask.choose_(same, [self._copies[id(tensor)][1] for tensor in same])
        places = [(live, before, True) for live, before in self._own]
        if self._base is not None:
            places += [(self._base.state.get(p, {}), before, False) for p, before in self._of_base]
        # A list, since all of them have to be masked before the host reads.
        if not all([self._settled(mask, live, before, own) for live, before, own in places]) and not bool(verdict):
            self._go_back()
            return False
        for choice, before in self._values:
            for name, old in before.items():
                new = getattr(choice, name)
                if new is not old[0] or isinstance(new, Tensor):
                    setattr(choice, name, mask.number(new, old[1]))
        return True

    @staticmethod
    def _reaches(verdict: Tensor, x: Tensor) -> bool:
        return (x.device.type == "cpu") == (verdict.device.type == "cpu")

    def _settled(self, mask: Mask, live: State, before: State, own: bool) -> bool:
        """Mask the entries that are other objects than before; return whether all changes are masked now."""
        done = live.keys() == before.keys()
        for key, old in before.items():
            new = live.get(key, _MISSING)
            if new is old:
                copy = self._copies.get(id(old))
                if copy is not None and hasattr(old, _NUMBER) and old._version != copy[2]:
                    raise RuntimeError(
                        f"a choice writes in place to the number {key} in a parameter's state, which on a GPU is a "
                        f"tensor of several parameters: write state[p][{key!r}] = state[p][{key!r}] + 1, not +="
                    )
                done = done and (copy is None or self._reaches(mask.verdict, copy[0]) or copy[0]._version == copy[2])
            elif own and _are_numbers(new, old):
                live[key] = self._once(mask.number, new, old)
                setattr(live[key], _NUMBER, True)
            elif id(old) in self._copies and _are_alike(new, old) and self._reaches(mask.verdict, new):
                live[key] = self._once(mask.tensor, new, self._copies[id(old)][1])
            else:
                done = False
        return done

    def _once(self, choose: Callable[[Any, Any], Tensor], new: Any, old: Any) -> Tensor:
        key = (id(new), id(old))
        if key not in self._made:
            self._made[key] = choose(new, old)
            self._held += [new, old]  # an id is an object's own only as long as the object lives
        return self._made[key]

    def _go_back(self) -> None:
        """Restore the states, of a step which the host knows to be not finite."""
        for tensor, copy, _ in self._copies.values():
            tensor.copy_(copy)
        for live, before in self._own:
            live.clear()
            live.update(before)
        for p, before in self._of_base:
            assert self._base is not None
            if before:
                self._base.state[p].clear()
                self._base.state[p].update(before)
            else:
                self._base.state.pop(p, None)
        for choice, values in self._values:
            for name, old in values.items():
                setattr(choice, name, old[1])


def _with_copy(value: Any) -> tuple[Any, Any]:
    return value, value.clone() if isinstance(value, Tensor) else value


def _are_numbers(new: Any, old: Any) -> bool:
    """Return whether `old` is a Python number, or stands for one, and `new` can take its place."""
    if not hasattr(old, _NUMBER) and (isinstance(old, bool) or not isinstance(old, int | float)):
        return False
    return new.dim() == 0 if isinstance(new, Tensor) else isinstance(new, int | float) and not isinstance(new, bool)


def _are_alike(new: Any, old: Tensor) -> bool:
    return isinstance(new, Tensor) and (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)
