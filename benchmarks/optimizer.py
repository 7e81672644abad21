"""Cost of one F-SAM step beside plain SGD, one CPU thread: `python benchmarks/optimizer.py`.

Prints two Markdown tables of ratios measured in one run, interleaved, medians:
- the optimizer's part (everything but forward and backward) on ResNet-18's parameter list, and the
  number of dispatched aten calls;
- a whole step on the small CNN against two bare forward-backward passes and a base step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fsamlab.config import ModelConfig
from fsamlab.models import build_model
from fsamlab.optim import FSAM, SAM, SharpnessAware

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}


class CountCalls(TorchDispatchMode):
    """Counts the aten calls that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Count one call."""
        self.num_calls += 1
        return func(*args, **(kwargs or {}))


def interleaved(functions: dict[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """Return the median seconds of each function; each returns the seconds it wants counted."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions + 2):
        for name, function in functions.items():
            times[name].append(function())
    return {name: statistics.median(t[2:]) for name, t in times.items()}


def parameters() -> list[torch.nn.Parameter]:
    """Return fresh parameters shaped like ResNet-18's (CIFAR stem, 100 classes)."""
    model = build_model(ModelConfig(name="resnet18"), 100, 3)
    return [torch.nn.Parameter(torch.randn_like(p) * 0.05) for p in model.parameters()]


def optimizer_part(optimizer: SharpnessAware) -> Callable[[], float]:
    """Return a function that runs both phases on given gradients and returns the time of the optimizer alone."""
    params = list(optimizer.parameters())
    # more than one, or the EMA becomes the gradient and the floor leaves a part of the work out
    gradients = [[torch.randn_like(p) for p in params] for _ in range(3)]

    def run() -> float:
        for p, g in zip(params, gradients[optimizer.num_steps % 2]):
            p.grad = g.clone()
        start = time.perf_counter()
        optimizer.ascend()
        seconds = time.perf_counter() - start
        assert int(optimizer.num_floored) == 0
        for p, g in zip(params, gradients[2]):
            p.grad = g.clone()
        start = time.perf_counter()
        optimizer.descend()
        return seconds + time.perf_counter() - start

    return run


def sgd_step(**keywords: bool) -> Callable[[], float]:
    """Return a function that times SGD.step on the same parameter list."""
    params = parameters()
    base = torch.optim.SGD(params, **SGD, **keywords)
    gradients = [torch.randn_like(p) for p in params]

    def run() -> float:
        for p, g in zip(params, gradients):
            p.grad = g.clone()
        start = time.perf_counter()
        base.step()
        return time.perf_counter() - start

    return run


def count(optimizer: SharpnessAware) -> int:
    """Return the aten calls of the optimizer's part in a settled step."""
    run = optimizer_part(optimizer)
    run()
    params = list(optimizer.parameters())
    gradients = [torch.randn_like(p) for p in params]
    calls = 0
    for phase in (optimizer.ascend, optimizer.descend):
        for p, g in zip(params, gradients):
            p.grad = g.clone()
        with CountCalls() as counter:
            phase()
        calls += counter.num_calls
    return calls


def table_optimizer(repetitions: int) -> None:
    """Print the optimizer part's time relative to SGD.step, and its aten calls."""
    rows = {
        "SAM, foreach": lambda base: SAM(base, rho=0.2),
        "F-SAM, foreach": lambda base: FSAM(base, rho=0.2),
        "F-SAM, foreach, without the check for non-finite gradients": lambda b: FSAM(b, rho=0.2, skip_nonfinite=False),
        "F-SAM, one tensor at a time": lambda base: FSAM(base, rho=0.2, foreach=False),
    }
    print(
        "| optimizer part, ResNet-18 (62 tensors, 11.2 M) | base | / SGD.step | / step of the same base | aten calls |"
    )
    print("| --- | --- | --- | --- | --- |")
    for kind, keywords in {
        "SGD": {},
        "SGD(foreach=True)": {"foreach": True},
        "SGD(fused=True)": {"fused": True},
    }.items():
        made = {name: make(torch.optim.SGD(parameters(), **SGD, **keywords)) for name, make in rows.items()}
        functions = {"SGD.step": sgd_step(), "base": sgd_step(**keywords)}
        functions.update({name: optimizer_part(o) for name, o in made.items()})
        times = interleaved(functions, repetitions)
        for name, optimizer in made.items():
            ratios = f"{times[name] / times['SGD.step']:.2f} | {times[name] / times['base']:.2f}"
            print(f"| {name} | {kind} | {ratios} | {count(optimizer)} |")
        plain, same = 1000 * times["SGD.step"], 1000 * times["base"]
        print(f"| (SGD.step: {plain:.1f} ms; this base: {same:.1f} ms) | {kind} | | | |")


def table_step(repetitions: int) -> None:
    """Print a whole step's time on the small CNN relative to its unavoidable parts."""
    images, labels = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))

    def network() -> torch.nn.Module:
        return build_model(ModelConfig(name="small_cnn", width=32), 10, 1).train()

    def backward(model: torch.nn.Module) -> torch.Tensor:
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    plain = network()
    base = torch.optim.SGD(plain.parameters(), **SGD, fused=True)

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(2):
            base.zero_grad()
            backward(plain)
        base.step()
        return time.perf_counter() - start

    def whole(make: Callable[..., SharpnessAware]) -> Callable[[], float]:
        model = network()
        optimizer = make(torch.optim.SGD(model.parameters(), **SGD, fused=True), rho=0.2, model=model)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            return backward(model)

        def run() -> float:
            start = time.perf_counter()
            optimizer.step(closure)
            return time.perf_counter() - start

        return run

    times = interleaved({"bare": bare, "SAM": whole(SAM), "F-SAM": whole(FSAM)}, repetitions)
    print("\n| whole step, small CNN (308 074 parameters, batch 64) | time / (2 forward-backward + base step) |")
    print("| --- | --- |")
    for name in ("SAM", "F-SAM"):
        print(f"| {name} | {times[name] / times['bare']:.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, {arguments.repetitions} repetitions\n")
    table_optimizer(arguments.repetitions)
    table_step(5 * arguments.repetitions)
