"""The error of F-SAM's EMA on a quadratic loss: bound, exact value and simulation: `python benchmarks/ema_error.py`.

Prints the tables of docs/theory.md and draws docs/ema_error.svg (or --out FILE). One core, float64, two minutes.
quadratic.py has the formulas.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from quadratic import Batches, Quadratic, Training, bound, cosine, exact, simulate
from torch import Tensor

from fsamlab.figures.canvas import dashes, legend_below, look, new, save
from fsamlab.results.methods import BLUE, DASHED, DOTTED, GREEN, GREY, PURPLE, SOLID, VERMILION, Style

LAMBDAS = (0.6, 0.9, 0.95)


@dataclass(frozen=True)
class Phase:
    """A part of a training: its start, and the steps over which squares are averaged."""

    title: str
    start_square: float  # |grad L(w_0)|^2
    steps: range


SAMPLES, SIZE, DIMENSIONS, SEEDS, PERTURBED_SEEDS, RHO = 512, 16, 10, range(100), range(16), 0.5
PHASES = (
    Phase("second epoch, on the way down", 4.0, range(32, 64)),
    Phase("tenth epoch, at the minimum", 0.0, range(288, 320)),
)
RATES = [10 ** (k / 4) for k in range(-12, 1)]
SIMULATED, SHOWN = RATES[::2], RATES[::4]
REPLACED, SHUFFLED = Batches(SAMPLES, SIZE, shuffled=False), Batches(SAMPLES, SIZE, shuffled=True)
STYLES = {
    "bound": Style("bound", GREY, DASHED, ""),
    "replaced": Style("exact, with replacement", BLUE, SOLID, "o"),
    "shuffled": Style("exact, shuffled epochs", VERMILION, SOLID, "s"),
    "noise": Style("noise alone, shuffled epochs", VERMILION, DOTTED, ""),
    "full": Style(r"$|\nabla L(w_t)|$ itself", GREEN, DASHED, ""),
    "fsam": Style(rf"F-SAM, $\rho$ = {RHO:g}, simulated", PURPLE, SOLID, "P"),
}

CURVES = {  # line -> how batches are drawn, key of Point.exact
    "bound": ("shuffled", "bound"),
    "replaced": ("replaced", "error"),
    "shuffled": ("shuffled", "error"),
    "noise": ("shuffled", "noise"),
    "full": ("shuffled", "full"),
}
SIMULATIONS = {"replaced": 1.0, "shuffled": 1.0, "fsam": 1.15}  # -> factor that moves markers apart


def problem(start_square: float) -> Quadratic:
    """Return the problem of the page: L = 1, and gradients of batches (with replacement) of variance 1.

    The curvatures go from .01 to 1; noise and start have the shares of the curvature in every direction.
    """
    h = torch.logspace(-2, 0, DIMENSIONS, dtype=torch.float64)
    z = torch.randn(SAMPLES, DIMENSIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * h.sqrt()
    z -= z.mean(0)
    z *= math.sqrt(SIZE / float(z.square().sum(1).mean()))
    return Quadratic(h, z, (start_square * h / h.sum()).sqrt())


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its standard error."""

    mean: float
    error: float

    @staticmethod
    def of(squares: Tensor) -> Estimate:
        """Estimate from one value per seed."""
        return Estimate(float(squares.mean()), float(squares.std()) / math.sqrt(len(squares)))

    def root(self) -> tuple[float, float, float]:
        """Return the root of the mean, and of the ends of its 95 % interval."""
        low, high = (math.sqrt(max(self.mean + k * 1.96 * self.error, 0)) for k in (-1, 1))
        return math.sqrt(max(self.mean, 0)), low, high


@dataclass(frozen=True)
class Point:
    """All values of one phase at one lr and lmbda: mean squares over the steps of the phase."""

    exact: dict[str, dict[str, float]]  # replaced, shuffled -> as exact(), with `bound` and `cosine`
    simulated: dict[str, Estimate]  # replaced, shuffled, fsam


def at(phase: Phase, training: Training, with_simulation: bool) -> Point:
    quadratic, steps, num_steps = problem(phase.start_square), list(phase.steps), phase.steps.stop
    values, simulated = {}, {}
    for name, batches in {"replaced": REPLACED, "shuffled": SHUFFLED}.items():
        found = exact(quadratic, batches, training, num_steps)
        found["cosine"] = cosine(quadratic, batches, training, num_steps)
        if not training.momentum:
            found["bound"] = bound(quadratic, batches, training, num_steps)
        values[name] = {key: float(value[steps].mean()) for key, value in found.items()}
        if with_simulation:
            squares = simulate(quadratic, batches, training, num_steps, SEEDS)["error"]
            simulated[name] = Estimate.of(squares[:, steps].mean(1))
    if with_simulation:
        squares = simulate(quadratic, SHUFFLED, training, num_steps, PERTURBED_SEEDS, RHO)["error"]
        simulated["fsam"] = Estimate.of(squares[:, steps].mean(1))
    return Point(values, simulated)


Points = dict[tuple[Phase, float, float], Point]


@look()
def draw_figure(points: Points) -> Figure:
    """Return the errors over lr, a row of panels for each phase and a column for each lmbda."""
    figure, panels = new(len(LAMBDAS), height=4.4, rows=len(PHASES), sharey=True)
    for axes, (phase, lmbda) in zip(panels, [(p, k) for p in PHASES for k in LAMBDAS]):
        for name, one in STYLES.items():
            sampling, key = CURVES.get(name, ("", ""))
            if key:
                roots = [math.sqrt(points[phase, lr, lmbda].exact[sampling][key]) for lr in RATES]
                axes.plot(RATES, roots, linestyle=dashes(one), color=one.colour, label=one.label)
            if name not in SIMULATIONS:
                continue
            middle, low, high = zip(*(points[phase, lr, lmbda].simulated[name].root() for lr in SIMULATED))
            bars = [[m - lo for m, lo in zip(middle, low)], [hi - m for m, hi in zip(middle, high)]]
            label = one.label if name == "fsam" else f"{one.label.removeprefix('exact, ')}, simulated"
            bar = {"fmt": one.marker, "color": one.colour, "markersize": 3.5, "capsize": 2, "elinewidth": 0.8}
            axes.errorbar([SIMULATIONS[name] * lr for lr in SIMULATED], middle, bars, label=label, **bar)
        axes.set(xscale="log", yscale="log", ylim=(0.03, 8))
    for axes, lmbda in zip(panels, LAMBDAS):
        axes.set_title(rf"$\lambda$ = {lmbda:g}")
    for axes in panels[-len(LAMBDAS) :]:
        axes.set_xlabel("lr times largest curvature")
    for axes, phase in zip(panels[:: len(LAMBDAS)], PHASES):
        axes.set_ylabel(f"error of the EMA,\n{phase.title}")
    counts = f"{len(SEEDS)} seeds, of F-SAM over {len(PERTURBED_SEEDS)}"
    seeds = f"mean and 95 % interval over {counts}; unit: the noise of a batch"
    legend_below(figure, panels[0], seeds, columns=3)
    return figure


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def table_of_checks(points: Points) -> str:
    """Return bound, exact value and simulation of the first phase, as roots of mean squares."""

    def pair(point: Point, name: str) -> list[str]:
        middle, low, high = point.simulated[name].root()
        return [f"{middle:.3f} ({low:.3f} to {high:.3f})"]

    rows = []
    for lmbda in LAMBDAS:
        for lr in SHOWN:
            point = points[PHASES[0], lr, lmbda]
            rows.append([f"{lmbda:g}", f"{lr:g}"])
            for name in ("replaced", "shuffled"):
                values = point.exact[name]
                rows[-1] += [
                    f"{math.sqrt(values['bound']):.2f}",
                    f"{math.sqrt(values['error']):.3f}",
                    *pair(point, name),
                ]
            rows[-1] += pair(point, "fsam")
    sampling = ["bound", "exact", "simulated"]
    head = [
        "lambda",
        "lr L",
        *(f"{x}, with replacement" for x in sampling),
        *(f"{x}, shuffled" for x in sampling),
        "F-SAM",
    ]
    return markdown(head, rows)


def table_of_choice(momentum: float = 0.0) -> str:
    """Return size of the gradient, error for each lmbda, the best lmbda, and cosines, in shuffled epochs."""
    candidates = [0.0, 0.3, *LAMBDAS, *(k / 100 for k in (50, 70, 75, 80, 85, 87, 92, 93, 94, 96, 97, 98, 99))]
    rows = []
    for phase in PHASES:
        for lr in RATES[::2]:
            all_values = {
                k: at(phase, Training(lr * (1 - momentum), k, momentum), False).exact["shuffled"] for k in candidates
            }
            best = min(candidates, key=lambda k: all_values[k]["error"])
            chosen = [all_values[k] for k in LAMBDAS]
            rows.append([phase.title, f"{lr:.2g}", f"{math.sqrt(chosen[0]['full']):.3f}"])
            rows[-1] += [f"{math.sqrt(v['error']):.3f}" for v in chosen]
            rows[-1] += [f"{best:g}: {math.sqrt(all_values[best]['error']):.3f}"]
            rows[-1] += [f"{v['cosine']:+.2f}" for v in chosen]
    errors, cosines = ([f"{what} {k:g}" for k in LAMBDAS] for what in ("error", "cos"))
    return markdown(["phase", "lr L", "gradient", *errors, "best lambda", *cosines], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "ema_error.svg")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = {
        (phase, lr, lmbda): at(phase, Training(lr, lmbda), lr in SIMULATED)
        for phase in PHASES
        for lr in RATES
        for lmbda in LAMBDAS
    }
    print(table_of_checks(every), "\n")
    far = [
        abs(point.simulated[name].mean - point.exact[name]["error"]) / point.simulated[name].error
        for point in every.values()
        for name in point.simulated.keys() & point.exact.keys()
    ]
    print(f"{len(far)} simulated means; the farthest from its exact value is {max(far):.1f} standard errors away\n")
    print(table_of_choice(), "\n")
    print(f"momentum .9, lr / (1 - momentum) in place of lr:\n\n{table_of_choice(momentum=0.9)}\n")
    print(save(draw_figure(every), arguments.out))
