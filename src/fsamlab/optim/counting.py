"""Which steps count: the verdict on the gradients of a step, the counters, and how a state_dict has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fsamlab.axes._ops import Number
from fsamlab.axes.choices import Choices
from fsamlab.optim.ranks import Ranks
from fsamlab.optim.state import Shared
from fsamlab.optim.verdict import Verdict
from fsamlab.optim.wrapper import Wrapper


class Counting(Wrapper):
    """A wrapper that counts the steps it takes and leaves out, and saves counters, settings and choices.

    On the CPU the counters are Python numbers. Elsewhere those that follow from gradients are 0-dim tensors on the
    device; what reads them as numbers waits for the device.
    """

    masks_on_cpu = False  # True: steps on the CPU are taken as those on a GPU are, for tests of the arithmetic

    num_steps = Shared[int]()
    num_floored = Shared["Tensor | int"]()
    _num_nonfinite = Shared["Tensor | int"]()
    _alike = Shared[Verdict]()  # whether all ranks had the same ascent gradients so far
    _parts = Shared[Any]()  # what was perturbed, between ascend() and descend()

    def __init__(
        self,
        base: Optimizer,
        choices: Choices,
        *,
        rho: float,
        floor: float,
        seed: int,
        group: Any,
        skip_nonfinite: bool,
    ) -> None:
        self.choices, self.floor, self.seed, self.skip_nonfinite = choices, floor, seed, skip_nonfinite
        super().__init__(base, rho)
        self.num_steps = self.num_floored = self._num_nonfinite = 0
        self._alike, self._parts = True, None
        self.ranks = Ranks(group, self.device)

    @property
    def num_nonfinite(self) -> int:
        """The number of steps that were left out because a gradient or a loss was not finite."""
        return int(self._num_nonfinite)

    @num_nonfinite.setter
    def num_nonfinite(self, value: int) -> None:
        self._num_nonfinite = value

    def counters(self) -> dict[str, Tensor | int]:
        """Return `num_nonfinite` and `num_floored` unread, for a caller that reads more than these from the device."""
        return {"num_nonfinite": self._num_nonfinite, "num_floored": self.num_floored}

    def _unread(self, verdict: Verdict) -> Verdict:
        """Return the verdict, unread unless the device is the CPU, where reading costs nothing."""
        if self.masks_on_cpu:
            return torch.as_tensor(verdict)
        return bool(verdict) if self.ranks.device.type == "cpu" else verdict

    def _needed(self, verdict: Verdict) -> Verdict:
        """Return the verdict, read where no mask can take the step back.

        What a base from another package keeps, and where, is not known; some choices count in Python.
        """
        masked = type(self.base).__module__.startswith("torch.optim.")
        waits = not masked or any(choice.reads_verdict for choice in self.choices.made())
        return bool(verdict) if waits else verdict

    def _ascent_verdict(self, norm_a: Number) -> Verdict:
        """Return whether the step may go on: the same answer on all ranks."""
        if not self.skip_nonfinite and self.ranks.number == 1:
            return True
        finite, alike = self.ranks.all_finite_and_alike(norm_a)
        self._alike = self._alike & alike
        return self._unread(finite) if self.skip_nonfinite else True

    def _follow_device(self) -> None:
        """Take the counters to the device of the parameters, which may have been moved since the last step."""
        device = self.ranks.device
        for name in ("num_floored", "_num_nonfinite", "_alike"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))

    @torch.no_grad()
    def average_state(self) -> None:
        """Average the state of the choices over the ranks, between two steps; all ranks have to call this method.

        For ranks that take the ascent pass under no_sync. Called after each step, it makes F-SAM's EMA the EMA of the
        gradient of all ranks, because an EMA is linear; every rank may then load the state that any rank has saved.
        """
        for p in self.parameters():
            for key in sorted(self.own_keys & self._own.get(p, {}).keys()):
                value = self._own[p][key]
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.ranks.average_(value)
        self._alike = True

    @property
    def own_keys(self) -> frozenset[str]:
        """The entries of a parameter's state that are not the base's."""
        return self.choices.state_keys

    def own_state(self) -> dict[str, Any]:
        """Return counters, settings and choices.

        Raises:
            RuntimeError: the weights are perturbed.
        """
        if self._parts is not None:
            raise RuntimeError("state_dict() between ascend() and descend(): the weights are perturbed")
        counters = {"num_steps": self.num_steps, "num_nonfinite": self.num_nonfinite}
        settings = {"num_floored": int(self.num_floored), "floor": self.floor, "seed": self.seed}
        # Averages of a rank's own gradients are no other rank's.
        own = (
            {"rank": self.ranks.rank, "num_ranks": self.ranks.number}
            if any(self._own.values()) and not self._alike
            else {}
        )
        return {**counters, **settings, **own, **self.choices.state()}

    def check_own_state(self, own: dict[str, Any]) -> None:
        """Refuse the state of a variant with other choices, and another rank's own state."""
        if self._parts is not None:
            raise RuntimeError(
                "load_state_dict() between ascend() and descend(): call restore(), then load the weights"
            )
        self.choices.check_state(own)
        here = {"rank": self.ranks.rank, "num_ranks": self.ranks.number}
        if "rank" in own and {key: own[key] for key in here} != here:
            raise ValueError(
                f"this is the state of rank {own['rank']} of {own['num_ranks']}, made of that rank's own gradients "
                f"(no_sync), and this is rank {here['rank']} of {here['num_ranks']}: save on each rank, and load on "
                "each rank what it has saved"
            )

    def load_own_state(self, own: dict[str, Any]) -> None:
        """Restore counters and hyper-parameters."""
        self.choices.load_state(own)
        self.floor, self.seed = own["floor"], own["seed"]
        self.num_steps, self.num_nonfinite = own["num_steps"], own["num_nonfinite"]
        self.num_floored = own["num_floored"]
        self._alike = "rank" not in own
