"""Ctrl-C at any line of a step: the weights are unperturbed, batch norms count, the next call works."""

import copy
import sys
import traceback
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fsamlab.optim
from fsamlab.optim import FASAM, FSAM, RandomSAM, SAMComponent, frozen_batchnorm

HERE = str(Path(fsamlab.optim.__file__).parent)


class InterruptAt:
    """Raise KeyboardInterrupt at the n-th line that runs inside fsamlab.optim."""

    def __init__(self, n):
        self.left = n

    def __enter__(self):
        self.outer = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *_):
        sys.settrace(self.outer)

    def trace(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace


class Loop:
    """A small network with both kinds of norms that keep statistics, and one optimizer."""

    def __init__(self, make, **keywords):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Unflatten(1, (2, 3)),
            nn.InstanceNorm1d(2, track_running_stats=True, affine=True),
            nn.Flatten(),
            nn.Linear(6, 4),
            nn.BatchNorm1d(4),
            nn.Dropout(0.5),
            nn.Linear(4, 2),
        )
        base = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.optimizer = make(base, rho=0.5, model=self.model, **keywords)
        self.x, self.y = torch.randn(8, 6), torch.arange(8) % 2

    def closure(self):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        return loss

    def step(self):
        self.optimizer.step(self.closure, None, self.closure)

    def micro(self):
        self.optimizer.step_micro([self.closure, self.closure])

    def two_phases(self):
        try:
            self.first_phase()
            self.second_phase()
        except BaseException:
            self.optimizer.restore()
            raise

    def first_phase(self):
        self.closure()
        self.optimizer.ascend()

    def second_phase(self):
        with frozen_batchnorm(self.model):
            self.closure()
        self.optimizer.descend()

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]

    def norms(self):
        return [m for m in self.model if hasattr(m, "track_running_stats")]


def settled(loop, call):
    """Make two steps, so that there are an EMA, momentum and scratch memory."""
    for k in range(2):
        torch.manual_seed(k)
        getattr(loop, call)()
    torch.manual_seed(7)
    return loop


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


CASES = {
    "step": ("step", FSAM, {"same_rng": True}),
    "two phases": ("two_phases", FSAM, {}),
    "micro": ("micro", FSAM, {}),
    "step, random": ("step", RandomSAM, {}),
    "step, adaptive": ("step", FASAM, {}),
    "step, full gradient": ("step", SAMComponent, {}),
    "step, one tensor at a time": ("step", FSAM, {"foreach": False}),
}


@pytest.mark.parametrize(
    "case", [c if i == 0 else pytest.param(c, marks=pytest.mark.long) for i, c in enumerate(CASES)]
)
def test_ctrl_c_at_every_line_of_a_step(case):
    call, make, keywords = CASES[case]
    start = settled(Loop(make, **keywords), call)
    before = start.weights()
    whole = copy.deepcopy(start)
    getattr(whole, call)()
    after = whole.weights()
    assert not same(before, after)

    n, wrong = 0, []
    while True:
        loop = copy.deepcopy(start)
        torch.manual_seed(7)
        try:
            with InterruptAt(n):
                getattr(loop, call)()
        except KeyboardInterrupt as interrupt:
            frames = traceback.extract_tb(interrupt.__traceback__)
            where = next(f"{Path(f.filename).name}:{f.lineno}" for f in frames[::-1] if f.filename.startswith(HERE))
        else:
            break
        if not same(loop.weights(), before) and not same(loop.weights(), after):
            wrong.append(f"{where}: other weights")
        for norm in loop.norms():
            if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
                wrong.append(f"{where}: {type(norm).__name__} does not track")
        try:
            getattr(loop, call)()
        except RuntimeError as e:
            wrong.append(f"{where}: then {e}")
        n += 1
    assert n > 50
    assert wrong == []


def test_ctrl_c_at_every_line_of_ascend():
    start = settled(Loop(FSAM), "two_phases")
    start.closure()
    before = start.weights()
    n = 0
    while True:
        loop = copy.deepcopy(start)
        for p, q in zip(loop.model.parameters(), start.model.parameters()):
            p.grad = q.grad.clone()
        try:
            with InterruptAt(n):
                loop.optimizer.ascend()
        except KeyboardInterrupt:
            assert same(loop.weights(), before), n
            loop.two_phases()
        else:
            break
        n += 1
    assert n > 50


def test_ctrl_c_at_every_line_of_descend():
    start = settled(Loop(FSAM), "two_phases")
    before = start.weights()
    whole = copy.deepcopy(start)
    whole.two_phases()
    n, not_begun = 0, 0
    while True:
        loop = copy.deepcopy(start)
        torch.manual_seed(7)
        loop.first_phase()
        with frozen_batchnorm(loop.model):
            loop.closure()
        try:
            with InterruptAt(n):
                loop.optimizer.descend()
        except KeyboardInterrupt:
            if not same(loop.weights(), before) and loop.optimizer._parts is not None:
                not_begun += 1
                loop.optimizer.descend()  # the call had not begun: the loop is still between the phases
            assert same(loop.weights(), before) or same(loop.weights(), whole.weights()), n
            loop.two_phases()
        else:
            break
        n += 1
    assert n > 30
    assert not_begun <= 3


def test_an_interrupt_between_the_phases_can_be_given_up():
    loop = settled(Loop(FSAM), "two_phases")
    before = loop.weights()
    loop.closure()
    loop.optimizer.ascend()
    assert not same(loop.weights(), before)
    with pytest.raises(RuntimeError, match=r"restore\(\) gives up"):
        loop.optimizer.ascend()
    loop.optimizer.restore()
    loop.optimizer.restore()
    assert same(loop.weights(), before)
    loop.optimizer.state_dict()
    loop.two_phases()
    assert not same(loop.weights(), before)


@pytest.mark.long
def test_an_interrupted_pass_over_the_full_set_is_made_again():
    start = Loop(SAMComponent, full_every_steps=10)
    n, kept = 0, set()
    while True:
        loop = copy.deepcopy(start)
        try:
            with InterruptAt(n):
                loop.step()
        except KeyboardInterrupt:
            stored = ["full_gradient" in loop.optimizer.state[p] for p in loop.optimizer.parameters()]
            assert loop.optimizer._full_step is None or all(stored)
            kept.add(loop.optimizer._full_step)
        else:
            break
        n += 1
    assert kept == {None, 0}
