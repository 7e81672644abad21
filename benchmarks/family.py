"""All variants on digits with label noise, each with a radius of its own: `python benchmarks/family.py`.

The setting is that of +sweeps=quickstart. The radius of a variant is the published one times the factor with the best
mean validation accuracy at the end of the training, over the tuning seeds; while the best factor is the smallest or the
largest one, the next power of two is tried too. The table shows test accuracies over all seeds with that radius, beside
SGD with one and with two times the epochs. `python benchmarks/family.py --cost` measures the cost of a step.

The runs are ordinary runs of launch.py below `--runs`: finished runs are not trained again, so that an interrupted
benchmark goes on.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import torch

from fsamlab.config import Config, typed
from fsamlab.config.compose import composing
from fsamlab.report import figures
from fsamlab.results.methods import label
from fsamlab.run import build

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_RADIUS = ("sgd", "sgd_2x")
LEFT_OUT = ("adamw", "sam_full", "sam_component", "sam_noise")  # another base; passes over the full set in each step
VARIANTS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml") if path.stem not in LEFT_OUT)
FACTORS = (0.5, 1.0, 2.0)
SMALLEST, LARGEST = 1 / 16, 16.0
SETTING = ("+sweeps=quickstart", "tracker=none", "train.progress=false")
SELECT, TEST = "final/val/acc1", "final/test/acc1"


def config(*overrides: str) -> Config:
    """Return a configuration of the setting, composed as launch.py does."""
    from hydra import compose

    with composing():
        return typed(compose("config", overrides=[*SETTING, *overrides]))


def train(runs: Path, method: str, radii: Sequence[float], seeds: int, jobs: int) -> None:
    """Train a method with each radius and seed that has not been trained yet."""
    overrides = [f"optimizer={method}", f"seed=range({seeds})", f"runs_dir={runs}", f"name={method}"]
    if radii:
        overrides.append("optimizer.rho=" + ",".join(map(str, radii)))
    command = [sys.executable, "launch.py", "-m", *SETTING, *overrides, f"hydra.launcher.num_jobs={jobs}"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{method}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def finished(runs: Path, method: str) -> pandas.DataFrame:
    """Return a row for each finished run of a method."""
    frame = figures.load(runs / method).runs
    return frame[frame["status"] == "finished"]


def tune(runs: Path, method: str, seeds: int, jobs: int) -> tuple[float, int]:
    """Return the radius of the best mean validation accuracy, and the number of radii tried."""
    published = config(f"optimizer={method}").optimizer.rho
    factors = list(FACTORS)
    while True:
        radii = [published * factor for factor in factors]
        train(runs, method, radii, seeds, jobs)
        frame = finished(runs, method)
        frame = frame[frame["seed"] < seeds]
        means = frame.groupby("optimizer.rho")[SELECT].mean()
        best = max(zip(radii, factors), key=lambda pair: means[pair[0]])
        further = {min(factors): best[1] / 2, max(factors): best[1] * 2}.get(best[1])
        if further is None or not SMALLEST <= further <= LARGEST:
            return best[0], len(factors)
        factors = sorted([*factors, further])


def accuracy(runs: Path, methods: Sequence[str], seeds: int, tuning_seeds: int, jobs: int) -> None:
    """Tune, train and print the table of accuracies."""
    found: dict[str, pandas.DataFrame] = {}
    chosen: dict[str, tuple[float, int]] = {}
    for method in dict.fromkeys((*WITHOUT_RADIUS, *methods)):
        start = time.time()
        if method not in WITHOUT_RADIUS:
            chosen[method] = tune(runs, method, tuning_seeds, jobs)
        radius = chosen[method][0] if method in chosen else None
        train(runs, method, [] if radius is None else [radius], seeds, jobs)
        frame = finished(runs, method)
        frame = frame if radius is None else frame[frame["optimizer.rho"] == radius]
        found[method] = frame.set_index("seed").sort_index()
        assert len(found[method]) == seeds, f"{method}: {len(found[method])} of {seeds} runs finished"
        print(f"{method}: radius {radius}, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    print("| method | radius (tried) | validation, at the end | test, at the end | - SGD, 2x epochs | test, at best |")
    print("| --- | --- | --- | --- | --- | --- |")
    control = found["sgd_2x"][TEST]
    for method in sorted(found, key=lambda name: -found[name][TEST].mean()):
        frame = found[method]
        radius, tried = chosen.get(method, (None, 0))
        difference = frame[TEST] - control
        gains = f"{100 * difference.mean():+.2f} ({int((difference > 0).sum())} of {seeds})"
        cells = [label(method), "-" if radius is None else f"{radius:g} ({tried})", mean_std(frame[SELECT])]
        cells += [mean_std(frame[TEST]), "" if method == "sgd_2x" else gains, mean_std(frame["best/test/acc1"])]
        print("| " + " | ".join(cells) + " |")


def mean_std(values: pandas.Series) -> str:
    """Return `mean ± standard deviation` in per cent."""
    return f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f}"


def cost(methods: Sequence[str], repetitions: int) -> None:
    """Print forward passes (in batches), time and state of a step beside those of SGD, measured side by side."""
    torch.set_num_threads(1)
    trainers = {}
    for method in dict.fromkeys(("sgd", *methods)):
        trainer, _ = build(config(f"optimizer={method}", "diagnostics=off"), torch.device("cpu"))
        trainers[method] = trainer
    passed = dict.fromkeys(trainers, 0)
    for method, trainer in trainers.items():

        def count(module: torch.nn.Module, inputs: Any, output: Any, name: str = method) -> None:
            passed[name] += len(inputs[0])

        trainer.model.register_forward_hook(count)
    batches = itertools.islice(itertools.cycle(next(iter(trainers.values())).data.train.batches(0)), repetitions)
    times: dict[str, list[float]] = {method: [] for method in trainers}
    samples = 0
    for batch in batches:
        samples += len(batch)
        for method, trainer in trainers.items():
            start = time.perf_counter()
            trainer._step(batch)
            times[method].append(time.perf_counter() - start)
    mean = {method: statistics.mean(values[repetitions // 10 :]) for method, values in times.items()}  # warm by then
    print("| method | forward passes a step | time / SGD | state beside the base's, in models |")
    print("| --- | --- | --- | --- |")
    for method, trainer in trainers.items():
        size = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
        states = [trainer.optimizer.state_dict()["state"], trainer.optimizer.base.state_dict()["state"]]
        held = [sum(t.numel() * t.element_size() for entry in s.values() for t in tensors(entry)) for s in states]
        row = [label(method), f"{passed[method] / samples:.2f}", f"{mean[method] / mean['sgd']:.2f}"]
        print("| " + " | ".join([*row, f"{(held[0] - held[1]) / size:.1f}"]) + " |")


def tensors(entry: dict[str, object]) -> list[torch.Tensor]:
    """Return the tensors of a parameter's state."""
    return [value for value in entry.values() if isinstance(value, torch.Tensor)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "family")
    parser.add_argument("--methods", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--repetitions", type=int, default=160)
    arguments = parser.parse_args()
    methods = [method for method in arguments.methods.split(",") if method]
    if arguments.cost:
        cost(methods, arguments.repetitions)
    else:
        accuracy(arguments.runs.resolve(), methods, arguments.seeds, arguments.tuning_seeds, arguments.jobs)
