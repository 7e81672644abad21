"""A torch optimizer around another one: shared groups, one state_dict with both states."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fsamlab.checks import ConfigError, in_range
from fsamlab.config.base import runs_its_closure
from fsamlab.optim.kept import as_saved
from fsamlab.optim.state import Shared, States, like

KEY = "sharpness_aware"  # of a group in a state_dict: everything that is no parameter's state
LIST_IT = "a state that `state_keys` does not list is lost when a run resumes; list the entry there"
R = TypeVar("R")


def hooked(func: Callable[..., R]) -> Callable[..., R]:
    """Run torch's step hooks around a method, as torch does around step(); an exception gives the step up."""

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> R:
        try:
            for pre_hook in chain(_global_optimizer_pre_hooks.values(), self._optimizer_step_pre_hooks.values()):
                pre_hook(self, (self, *args), kwargs)
            result = func(self, *args, **kwargs)
            for post_hook in chain(self._optimizer_step_post_hooks.values(), _global_optimizer_post_hooks.values()):
                post_hook(self, (self, *args), kwargs)
            return result
        except BaseException:
            self.restore()
            raise

    return wrapper


@contextmanager
def _no_global_hooks() -> Iterator[None]:
    """Hide the step hooks of all optimizers inside the context."""
    everyones: tuple[dict[int, Any], ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    hidden = [(hooks, dict(hooks)) for hooks in everyones if hooks]
    try:
        for hooks, _ in hidden:
            hooks.clear()
        yield
    finally:
        for hooks, kept in hidden:
            hooks.update(kept)


class Wrapper(Optimizer):
    """The interface of a torch optimizer on top of `base`: groups, hooks, schedulers, state_dict, pickling.

    A parameter's state is the base's entries and, under other keys, the wrapper's own. In a state_dict the rest of the
    wrapper's state stands in every group under one key, where torch.distributed.checkpoint takes it along.
    """

    # state made by a step with lr 0 and without gradients, for checkpoint readers to load into: see step()
    _blank = Shared[bool]()

    def __init__(self, base: Optimizer, rho: float) -> None:
        if runs_its_closure(base):
            raise TypeError(f"{type(base).__name__} runs its closure itself, as often as it likes: no base for this")
        if isinstance(base, Wrapper):
            raise TypeError("the base is sharpness-aware already, and perturbs by itself: wrap the optimizer below it")
        self.base = base
        self._shared: dict[str, Any] = {}
        self._blank = False
        super().__init__(base.param_groups, {**base.defaults, "rho": rho})
        self._keep_rho_on_load()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's own groups, so that schedulers and checkpoints act on both."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if groups:  # the constructor of torch's class starts from an empty list
            self.base.param_groups = groups

    @property  # type: ignore[override]
    def state(self) -> States:
        """Each parameter's state, the base's entries and the wrapper's own; what is written goes where it belongs."""
        return States(self._own, self.base.state, self.own_keys)

    @state.setter
    def state(self, states: dict[Tensor, dict[str, Any]]) -> None:
        if "_own" not in self.__dict__:  # the constructor of torch's class; the base may have been trained already
            self._own: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
            return
        self.state.clear()
        self.state.update(states)

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return next(self.parameters()).device

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; it may bring its own `rho`."""
        in_range("rho", param_group.setdefault("rho", self.defaults["rho"]), 0)
        if not isinstance(param_group["params"], Tensor | set):  # torch refuses a set, which has no order
            params = param_group["params"] = list(param_group["params"])
            if len({id(p[1] if isinstance(p, tuple) else p) for p in params}) < len(params):
                raise ValueError("a parameter stands twice in a group: it would be perturbed and stepped twice")
        if not any(group is param_group for group in self.param_groups):
            self.base.add_param_group(param_group)
        param_group[KEY] = None  # a key of the group, and so of what torch's tools read back; filled in by state_dict()

    def parameters(self) -> Iterator[Tensor]:
        """Iterate over all parameters, in the order of the groups."""
        return (p for group in self.param_groups for p in group["params"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or set them to zero in place; torch's method, without a label for its profiler."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def radii(self) -> list[float]:
        """Return rho of each group; groups that were added to the base itself get the default.

        Raises:
            ConfigError: a rho in a group is negative, not finite, or not a number.
        """
        found = []
        for i, group in enumerate(self.param_groups):
            rho = group.setdefault("rho", self.defaults["rho"])
            try:
                possible = 0 <= rho < math.inf
            except TypeError:  # no number
                possible = False
            if not possible:
                raise ConfigError(f"param_groups[{i}]['rho']", rho, "must be finite and >= 0")
            found.append(rho)
        return found

    def restore(self) -> None:
        """Give up a step that was begun."""
        raise NotImplementedError

    def _step_base(self) -> None:
        with _no_global_hooks():  # they are called for this optimizer's own step
            self.base.step()
        self._opt_called = True  # what schedulers look at; torch sets it in step() only

    # ------------------------------------------------------------------------------------ the state

    @property
    def own_keys(self) -> frozenset[str]:
        """The keys of a parameter's state that belong to the wrapper and not to the base."""
        raise NotImplementedError

    def own_state(self) -> dict[str, Any]:
        """Return the part of the state that belongs to no parameter."""
        raise NotImplementedError

    def check_own_state(self, own: dict[str, Any]) -> None:
        """Raise ValueError if `own` cannot be loaded into this optimizer."""
        raise NotImplementedError

    def load_own_state(self, own: dict[str, Any]) -> None:
        """Restore :meth:`own_state`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return base state, own state, groups with rho; no copy of the weights."""
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        own = {**self.own_state(), "blank": self._blank, "has_entries": any(self._own.values())}
        packed = self.base.state_dict()
        state = {i: as_saved(self.state[p]) for i, p in enumerate(self.parameters())}
        both = {
            key for p in self.parameters() for key in self._own.get(p, {}).keys() & self.base.state.get(p, {}).keys()
        }
        if both:
            raise RuntimeError(f"the base and a choice both keep {', '.join(sorted(both))} in a parameter's state")
        stray = {key for entries in self._own.values() for key in entries} - self.own_keys
        if stray:
            raise RuntimeError(f"a choice keeps {', '.join(sorted(stray))} in a parameter's state: {LIST_IT}")
        result = {
            **packed,
            "state": state if any(state.values()) else {},
            "param_groups": [{**group, KEY: own} for group in packed["param_groups"]],
        }
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            result = post_hook(self, result) or result
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`, hyper-parameters included.

        Raises:
            ValueError: the state belongs to another variant, or has other groups; this optimizer is unchanged then.
        """
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        groups = state_dict["param_groups"]
        own = next((found[KEY] for found in (state_dict, *groups) if found.get(KEY)), None)  # older ones: at the top
        if own is None:
            raise ValueError("this is the state of a plain optimizer; load it into `.base`")
        self.check_own_state(own)
        found = any(self.own_keys & entries.keys() for entries in state_dict["state"].values())
        if self.own_keys and own.get("has_entries") and not found:
            raise ValueError(
                f"this state has lost {', '.join(sorted(self.own_keys))} of the parameters: its reader asked this "
                "optimizer for its entries while there were none (the base has had some from the start); take one step "
                "before, then load weights and state"
            )
        theirs = {i: {k: v for k, v in s.items() if k not in self.own_keys} for i, s in state_dict["state"].items()}
        self.base.load_state_dict({"state": {i: s for i, s in theirs.items() if s}, "param_groups": groups})
        self.load_own_state(own)
        self._blank = own.get("blank", False)
        self._own.clear()
        names = chain.from_iterable(group["params"] for group in groups)
        for name, p in zip(names, self.parameters()):
            for key in self.own_keys & state_dict["state"].get(name, {}).keys():
                self._own[p][key] = like(p, state_dict["state"][name][key], copy=True)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _keep_rho_on_load(self) -> None:
        """Have the base keep each group's rho when it loads a state without one: that of a plain optimizer."""

        def complete(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
            groups = state_dict["param_groups"]
            if len(groups) != len(self.param_groups):
                return state_dict  # which the base refuses
            kept = [{"rho": mine["rho"], **theirs, KEY: None} for mine, theirs in zip(self.param_groups, groups)]
            return {**state_dict, "param_groups": kept}

        self.base.register_load_state_dict_pre_hook(complete)

    def _make_blank_state(self, entries: Callable[[Tensor], dict[str, Any]]) -> None:
        """Make the state that checkpoint readers load into, from a step of the base with lr 0 and no gradients."""
        self._step_base()
        for rho, group in zip(self.radii(), self.param_groups):
            for p in group["params"]:
                if rho > 0 and p.requires_grad:
                    self._own[p].update(entries(p))
        self._blank = bool(self.state)

    def _forget_blank_state(self) -> None:
        """Drop the blank state before a real step, if no checkpoint was loaded into it."""
        if self._blank:
            self.state.clear()
            self._blank = False

    def __getstate__(self) -> dict[str, Any]:
        """Return all attributes but a scheduler's wrapper around step()."""
        return {k: v for k, v in self.__dict__.items() if k != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes, and the hook that copying a base does not copy."""
        super().__setstate__(state)
        self._keep_rho_on_load()
