"""A torch optimizer around another one: shared groups, one state_dict with both states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fsamlab.config import in_range


class Wrapper(Optimizer):
    """What a torch optimizer has, on top of `base`: groups, hooks, schedulers, state_dict, pickling.

    A parameter's state in the state_dict is the base's entries and, under other keys, the wrapper's own.
    """

    def __init__(self, base: Optimizer, rho: float) -> None:
        self.base = base
        super().__init__(base.param_groups, {**base.defaults, "rho": rho})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's own groups, so that schedulers and checkpoints act on both."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if groups:  # the constructor of torch's class starts from an empty list
            self.base.param_groups = groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; it may bring its own `rho`."""
        in_range("rho", param_group.setdefault("rho", self.defaults["rho"]), 0)
        if not any(group is param_group for group in self.param_groups):
            self.base.add_param_group(param_group)

    def parameters(self) -> Iterator[Tensor]:
        """Iterate over all parameters, in the order of the groups."""
        return (p for group in self.param_groups for p in group["params"])

    @property
    def own_keys(self) -> frozenset[str]:
        """The entries of a parameter's state that are not the base's."""
        raise NotImplementedError

    def own_state(self) -> dict[str, Any]:
        """Return what is no parameter's state."""
        raise NotImplementedError

    def check_own_state(self, own: dict[str, Any]) -> None:
        """Raise ValueError where `own` cannot be loaded here."""
        raise NotImplementedError

    def load_own_state(self, own: dict[str, Any]) -> None:
        """Restore :meth:`own_state`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return base state, own state, groups with rho; no copy of the weights."""
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        own = self.own_state()
        packed = self.base.state_dict()
        state = {i: dict(s) for i, s in packed["state"].items()}
        for i, p in enumerate(self.parameters()):
            if self.state.get(p):
                state.setdefault(i, {}).update(self.state[p])
        result = {**packed, "state": state, "sharpness_aware": own}
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            result = post_hook(self, result) or result
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`, hyper-parameters included.

        Raises:
            ValueError: it is another variant's, or has other groups; nothing has changed then.
        """
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        if "sharpness_aware" not in state_dict:
            raise ValueError("this is the state of a plain optimizer; load it into `.base`")
        self.check_own_state(state_dict["sharpness_aware"])
        theirs = {i: {k: v for k, v in s.items() if k not in self.own_keys} for i, s in state_dict["state"].items()}
        packed = {"state": {i: s for i, s in theirs.items() if s}, "param_groups": state_dict["param_groups"]}
        self.base.load_state_dict(packed)
        self.load_own_state(state_dict["sharpness_aware"])
        self.state.clear()
        for i, p in enumerate(self.parameters()):
            for key in self.own_keys & state_dict["state"].get(i, {}).keys():
                value = state_dict["state"][i][key]
                self.state[p][key] = _like(p, value)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return all attributes but a scheduler's wrapper around step()."""
        return {k: v for k, v in self.__dict__.items() if k != "step"}


def _like(p: Tensor, value: Any) -> Any:
    """Return a copy of an entry of p's state on p's device; what has p's shape gets p's dtype."""
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() and value.shape == p.shape:
        return value.to(p, copy=True)
    return value.to(p.device, copy=True)
