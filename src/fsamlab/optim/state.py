"""Where an optimizer that wraps another one keeps its state, so that other people's code finds it.

Training frameworks read and write `optimizer.state`, wrap an optimizer in an object that has a copy of its attributes,
and convert a model to another dtype between two steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar, overload

from torch import Tensor

T = TypeVar("T")


class Shared(Generic[T]):
    """An attribute that changes while training, kept in the dictionary `_shared` of its object.

    An object that wraps the optimizer and has its class and (a copy of) its attributes, as Lightning's does, runs its
    methods with itself as `self`. With plain attributes it would count steps that the optimizer does not know of.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Shared[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        try:
            return instance._shared[self.name]
        except KeyError:
            raise AttributeError(self.name) from None

    def __set__(self, instance: Any, value: T) -> None:
        instance._shared[self.name] = value


class Entries(dict[str, Any]):
    """One parameter's state; what is written to it is written to the optimizer that the entry belongs to."""

    _states: States | None = None  # None in a copy, which belongs to nobody
    _p: Tensor

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if self._states is not None:
            self._states.of(key)[self._p][key] = value

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        if self._states is not None:
            del self._states.of(key)[self._p][key]

    # dict's own versions do not call the two methods above
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault
    pop = MutableMapping.pop
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear


class States(MutableMapping[Tensor, dict[str, Any]]):
    """A live view of two optimizers' states as one; like torch's, it gives an empty one for a parameter without."""

    def __init__(
        self,
        own: defaultdict[Tensor, dict[str, Any]],
        base: defaultdict[Tensor, dict[str, Any]],
        own_keys: frozenset[str],
    ) -> None:
        self.own, self.base, self.own_keys = own, base, own_keys

    def of(self, key: str) -> defaultdict[Tensor, dict[str, Any]]:
        """Return the states that an entry belongs to."""
        return self.own if key in self.own_keys else self.base

    def __getitem__(self, p: Tensor) -> Entries:
        entries = Entries({**self.base.get(p, {}), **self.own.get(p, {})})
        entries._states, entries._p = self, p
        return entries

    def __setitem__(self, p: Tensor, entries: Any) -> None:
        new = dict(entries)
        del self[p]
        for key, value in new.items():
            self.of(key)[p][key] = value

    def __delitem__(self, p: Tensor) -> None:
        self.own.pop(p, None)
        self.base.pop(p, None)

    def __contains__(self, p: object) -> bool:
        return any(bool(states.get(p)) for states in (self.own, self.base))  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[Tensor]:
        return iter([p for p in dict.fromkeys((*self.base, *self.own)) if p in self])

    def __len__(self) -> int:
        return len(list(iter(self)))


def like(p: Tensor, value: Any, copy: bool = False) -> Any:
    """Return an entry of p's state on p's device; a floating-point tensor of p's shape in p's dtype."""
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() and value.shape == p.shape:
        return value.to(p, copy=copy)
    return value.to(p.device, copy=copy)


def differ(x: Tensor, p: Tensor) -> bool:
    """Return whether x cannot hold a copy of p as it is."""
    return x.dtype != p.dtype or x.device != p.device or x.shape != p.shape
