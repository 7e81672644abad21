"""A choice on each axis that nobody needs, with a parameter and a state of its own: what a new choice may count on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch

from fsamlab.axes import Ascent, Component, Metric, Reference, number, rules
from fsamlab.config import SCHEMAS, OptimizerConfig


@dataclass
class Kick(Ascent):
    """a = g + kick / (1 + number of steps) times the a of the step before."""

    name = "kick"
    has_clean_loss = True
    per_micro_batch = True
    state_keys = ("last_ascent",)
    values = ("num_kicks",)
    kick: float = number(0.0, 0, 1)

    def __post_init__(self):
        super().__post_init__()
        self.num_kicks = 0

    def gradients(self, step):
        found = super().gradients(step)
        share = self.kick / (1 + self.num_kicks)
        return [
            None if a is None else a + share * step.state[p].get("last_ascent", torch.zeros_like(a))
            for p, a in zip(step.params, found)
        ]

    def commit(self, parts, state, ops):
        super().commit(parts, state, ops)
        self.num_kicks += 1

    def update(self, part, state, ops):
        for p, a in zip(part.params, part.ascent(ops)):
            state[p]["last_ascent"] = a


@dataclass
class Lean(Component):
    """d = a - lean r + half of the d of the step before."""

    name = "lean"
    state_keys = ("last_direction",)
    lean: float = number(0.0, 0, 1)

    def set_direction(self, parts, ops):
        for part in parts:
            r = part.reference(ops) or [torch.zeros_like(a) for a in part.a]
            last = [s.get("last_direction", torch.zeros_like(a)) for s, a in zip(part.states, part.a)]
            part.d = [a - self.lean * x + 0.5 * y for a, x, y in zip(part.a, r, last)]

    def update(self, part, state, ops):
        for p, d in zip(part.params, part.d):
            state[p]["last_direction"] = d.clone()


@dataclass
class Largest(Reference):
    """r = decay times the longest gradient so far, counted per tensor in integers."""

    name = "largest"
    state_keys = ("largest", "num_larger")
    decay: float = number(0.0, 0, 1)

    def form(self, state):
        return state.get("largest"), 0.0, self.decay / (1 + state.get("num_larger", 0))

    def update(self, part, state, ops):
        for p, a in zip(part.params, part.ascent(ops)):
            if "largest" not in state[p] or a.norm() > state[p]["largest"].norm():
                state[p]["largest"] = a
                state[p]["num_larger"] = state[p].get("num_larger", 0) + 1


@dataclass
class Root(Metric):
    """T = (sum of |a| of the past + 1)^-power, the sum in float64 and one number for each tensor."""

    name = "root"
    state_keys = ("sum_of_norms",)
    power: float = number(0.0, 0, 1)

    def stretch(self, xs, params, weights, state, ops):
        return [x * float(1 + state[p].get("sum_of_norms", 0)) ** -self.power for x, p in zip(xs, params)]

    def update(self, part, state, ops):
        for p, a in zip(part.params, part.a):
            state[p]["sum_of_norms"] = state[p].get("sum_of_norms", 0) + a.double().norm()


TOYS = {"ascent": Kick, "component": Lean, "reference": Largest, "metric": Root}
STATE = [(axis, key) for axis, toy in TOYS.items() for key in toy.state_keys]
PARAMETERS = {"kick": 0.6, "lean": 0.4, "decay": 0.9, "power": 0.7}
CHOSEN = tuple(f"optimizer.{axis}={toy.name}" for axis, toy in TOYS.items())
OVERRIDES = ("optimizer=sam", "optimizer.name=toy", *CHOSEN, *(f"optimizer.{k}={v}" for k, v in PARAMETERS.items()))


@contextmanager
def registered() -> Iterator[type]:
    """Put the toys into the tables, and their parameters into the schema; yield the schema."""
    with mock.patch.dict(SCHEMAS["optimizer"]):
        patches = [mock.patch.dict(rules.AXES[axis], {toy.name: toy}) for axis, toy in TOYS.items()]
        for patch in patches:
            patch.start()
        try:
            body = {"__module__": __name__, "__annotations__": {}}
            fresh = type("OptimizerConfig", (OptimizerConfig,), body)
            SCHEMAS["optimizer"]["variant"] = dataclass(rules.with_parameters(fresh))
            yield SCHEMAS["optimizer"]["variant"]
        finally:
            for patch in patches:
                patch.stop()
