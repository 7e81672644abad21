"""The entries of a parameter's state: what a choice reads is there, and the base and the choices share no name."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fsamlab.axes.axis import is_kept
from fsamlab.axes.choices import Choices
from fsamlab.checks import ConfigError
from fsamlab.optim.wrapper import LIST_IT


def check_names(choices: Choices, own: dict[Tensor, dict[str, Any]], base: Optimizer) -> None:
    """Refuse an entry that would be lost or overwritten; all entries are known after the base's first step.

    Raises:
        ConfigError: a choice keeps an entry that `state_keys` does not list, or that the base keeps too.
    """
    stray = {key for entries in own.values() for key in entries} - choices.state_keys
    if stray:
        raise ConfigError("state_keys", ", ".join(sorted(stray)), LIST_IT)
    there = {name for entries in base.state.values() for name in entries}
    for axis, choice in choices.by_axis().items():
        if choice and there.intersection(choice.state_keys):
            both = ", ".join(sorted(there.intersection(choice.state_keys)))
            allowed = f"keeps {both} in a parameter's state, as {type(base).__name__} does: rename the entry"
            raise ConfigError(axis, choice.name, allowed)


def check_needs(choices: Choices, base: Optimizer) -> None:
    """Refuse a base that has made a step and keeps no entry of a name that a choice reads.

    Raises:
        ConfigError: which choice reads which entry.
    """
    for axis, choice in choices.by_axis().items():
        for key in choice.needs_base_state if choice else ():
            kept = sorted({n for entries in base.state.values() for n, x in entries.items() if x is not None})
            if not is_kept(key, kept):
                found = ", ".join(kept) or "nothing"
                allowed = f"reads {key} of the base, and {type(base).__name__} as set keeps {found}"
                raise ConfigError(axis, choice.name if choice else None, allowed)
