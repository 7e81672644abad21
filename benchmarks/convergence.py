"""How the gradient falls with the number of steps, for F-SAM, SAM and SGD: `python benchmarks/convergence.py`.

The loss is smooth and not convex: the mean over N samples of sigmoid(-y_i <x_i, w>), plus mu/2 |w|^2, with a fifth of
the labels flipped. The full gradient is known, so is a bound L of its curvature, and the noise of a batch is bounded.
Each training has a number of steps T, lr and rho fixed in advance; slopes are least squares fits to logarithms.

Prints the table of docs/theory.md and draws docs/convergence.svg (or --out FILE). One core, float64, three minutes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from scipy.stats import t as student
from torch import Tensor
from torch.optim import Optimizer

from fsamlab.figures.canvas import BAND, dashes, legend_below, look, new, save
from fsamlab.optim import FSAM, SAM
from fsamlab.results.methods import METHODS

SAMPLES, DIMENSIONS, SIZE, MU, FLIPPED = 512, 10, 16, 0.02, 0.2
STEPS, SEEDS = [128, 512, 2048, 8192], range(5)
LARGEST_LR, LARGEST_RHO = 1.0, 1.0  # of the shortest training; lr in units of 1 / L
LATE = 2  # the longest trainings that have a slope of their own
FALLS = 0.5  # lr and rho fall as T to this power, unless they are constant


class Problem:
    """The loss of the page. The start lies on the wrong side, where the Hessian has negative eigenvalues.

    Attributes:
        samples: y_i x_i (N, d).
        start: w_0 (d,).
        smoothness: L, an upper bound of the largest eigenvalue of the Hessian everywhere.
    """

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        scales = torch.logspace(-1, 0, DIMENSIONS, dtype=torch.float64).sqrt()
        x = torch.randn(SAMPLES, DIMENSIONS, generator=g, dtype=torch.float64) * scales
        x[:, 0] += 1
        truth = torch.randn(DIMENSIONS, generator=g, dtype=torch.float64)
        y = (x @ truth + 0.3).sign()
        y[torch.rand(SAMPLES, generator=g) < FLIPPED] *= -1
        self.samples = y[:, None] * x
        self.start = -truth / truth.norm()
        steepest = 1 / (6 * math.sqrt(3))  # the largest second derivative of the sigmoid
        covariance = self.samples.T @ self.samples / SAMPLES
        self.smoothness = steepest * float(torch.linalg.eigvalsh(covariance)[-1]) + MU

    @staticmethod
    def gradient(samples: Tensor, w: Tensor) -> Tensor:
        """Return the mean gradient over samples (n, d) at w, (d,) or (T, d)."""
        s = torch.sigmoid(w @ samples.T)
        return MU * w - (s * (1 - s)) @ samples / len(samples)

    def hessian(self, w: Tensor) -> Tensor:
        """Return the Hessian of the loss at w (d,)."""
        s = torch.sigmoid(self.samples @ w)
        curvature = -s * (1 - s) * (1 - 2 * s)
        return self.samples.T @ (curvature[:, None] * self.samples) / SAMPLES + MU * torch.eye(DIMENSIONS)


OPTIMIZERS: dict[str, Callable[[Tensor, float, float], Optimizer]] = {
    "sgd": lambda w, lr, rho: torch.optim.SGD([w], lr=lr),
    "sam": lambda w, lr, rho: SAM([w], lr=lr, rho=rho),
    "fsam": lambda w, lr, rho: FSAM([w], lr=lr, rho=rho),
}


@dataclass(frozen=True)
class Schedule:
    """lr = LARGEST_LR / L (T_0 / T)^lr_falls, rho = LARGEST_RHO (T_0 / T)^rho_falls, T_0 the shortest training."""

    title: str
    lr_falls: float
    rho_falls: float


SCHEDULES = (
    Schedule(r"lr $\propto T^{-1/2}$, $\rho \propto T^{-1/2}$", FALLS, FALLS),
    Schedule(r"lr $\propto T^{-1/2}$, $\rho$ constant", FALLS, 0),
    Schedule(r"lr constant, $\rho \propto T^{-1/2}$", 0, FALLS),
)


def squares(problem: Problem, method: str, num_steps: int, lr: float, rho: float, seed: int) -> Tensor:
    """Train with batches drawn with replacement; return |grad L(w_t)|^2 (T,) at t = 0, ..., T - 1."""
    drawn = torch.randint(SAMPLES, (num_steps, SIZE), generator=torch.Generator().manual_seed(seed))
    w = torch.nn.Parameter(problem.start.clone())
    optimizer = OPTIMIZERS[method](w, lr, rho)
    nothing = torch.zeros((), dtype=torch.float64)  # the loss, which no rule here reads
    path = torch.empty(num_steps, DIMENSIONS, dtype=torch.float64)

    def closure_on(samples: Tensor) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            w.grad = problem.gradient(samples, w.detach())
            return nothing

        return closure

    for t, samples in enumerate(problem.samples[drawn]):
        path[t] = w.detach()
        optimizer.step(closure_on(samples))
    return problem.gradient(problem.samples, path).square().sum(1)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least squares slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval (Student's t)."""
    n = len(values)
    half = float(student.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)), half


Found = dict[tuple[Schedule, str], dict[int, list[Tensor]]]  # schedule, method -> T -> squares of each seed


def measure(problem: Problem) -> Found:
    """Train everything. SGD has no rho, so that it has no training where rho alone is constant."""
    found: Found = {}
    for schedule in SCHEDULES:
        for method in OPTIMIZERS:
            if method == "sgd" and not schedule.rho_falls:
                continue
            found[schedule, method] = {}
            for num_steps in STEPS:
                shorter = STEPS[0] / num_steps
                lr = LARGEST_LR / problem.smoothness * shorter**schedule.lr_falls
                rho = LARGEST_RHO * shorter**schedule.rho_falls
                found[schedule, method][num_steps] = [squares(problem, method, num_steps, lr, rho, s) for s in SEEDS]
    return found


def over_steps(by_steps: dict[int, list[Tensor]], reduce: Callable[[Tensor], Tensor]) -> list[list[float]]:
    """Return a reduction over t of the squares: for each seed its values over T."""
    return [[float(reduce(by_steps[num_steps][k])) for num_steps in STEPS] for k in range(len(SEEDS))]


def table(found: Found) -> str:
    """Return values and fitted slopes with their 95 % intervals over seeds, as Markdown."""
    head = [
        "schedule",
        "method",
        f"T = {STEPS[0]}",
        f"T = {STEPS[-1]}",
        "slope",
        f"slope, T >= {STEPS[-LATE]}",
        "slope of min",
    ]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for (schedule, method), by_steps in found.items():
        means, least = over_steps(by_steps, torch.mean), over_steps(by_steps, torch.min)
        ends = ["{:.2e} ± {:.0e}".format(*interval([one[k] for one in means])) for k in (0, -1)]
        fits = [
            "{:+.2f} ± {:.2f}".format(*interval([slope(STEPS[first:], one[first:]) for one in values]))
            for values, first in ((means, 0), (means, -LATE), (least, 0))
        ]
        lines.append(f"| {schedule.title} | {METHODS[method].label} | {' | '.join([*ends, *fits])} |")
    return "\n".join(lines)


@look()
def draw_figure(found: Found) -> Figure:
    """Return the mean of |grad L(w_t)|^2 over T, a panel for each schedule, with the fitted slopes."""
    figure, panels = new(len(SCHEDULES), height=2.6, sharey=True)
    for axes, schedule in zip(panels, SCHEDULES):
        for method, look_of in [(m, METHODS[m]) for m in OPTIMIZERS if (schedule, m) in found]:
            by_seed = over_steps(found[schedule, method], torch.mean)
            middle, half = np.array([interval(values) for values in zip(*by_seed)]).T
            fitted = interval([slope(STEPS, one) for one in by_seed])
            axes.fill_between(STEPS, middle - half, middle + half, color=look_of.colour, alpha=BAND, linewidth=0)
            axes.plot(
                STEPS,
                middle,
                marker=look_of.marker,
                linestyle=dashes(look_of),
                color=look_of.colour,
                label=look_of.label,
            )
            place = 0.06 + 0.08 * [m for m in ("fsam", "sam", "sgd") if (schedule, m) in found].index(method)
            text = "{}: slope {:+.2f} ± {:.2f}".format(look_of.label, *fitted)
            axes.text(0.04, place, text, transform=axes.transAxes, color=look_of.colour, fontsize=7)
        axes.set(xscale="log", yscale="log", xlabel="T", title=schedule.title)
        axes.set_xticks(STEPS, [str(t) for t in STEPS])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.minorticks_off()
    panels[0].set_ylabel(r"mean of $|\nabla L(w_t)|^2$ over $t < T$")
    legend_below(figure, panels[0], f"mean and 95 % interval over {len(SEEDS)} seeds; slopes over all T", columns=3)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "convergence.svg")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = Problem()
    ends = torch.linalg.eigvalsh(made.hessian(made.start))[[0, -1]].tolist()
    print(f"L = {made.smoothness:.3f}; eigenvalues of the Hessian at the start: {ends[0]:.3f} to {ends[1]:.3f}\n")
    results = measure(made)
    print(table(results), "\n")
    print(save(draw_figure(results), arguments.out))
