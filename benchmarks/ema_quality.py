"""The EMA's cosine with the full gradient over training, measured and predicted.

    python launch.py -m +sweeps=ema_quality
    python benchmarks/ema_quality.py runs/ema_quality

draws docs/ema_quality.svg (or --out FILE) and prints the numbers as a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import yaml

from fsamlab.record import read_rows
from fsamlab.sweep.runs import find_runs

MEASURED, PREDICTED = "perturbation/cos_ema_full", "perturbation/cos_ema_full_predicted"
INDEPENDENT, BATCH = "perturbation/cos_ema_full_independent", "perturbation/cos_batch_full"
LINES = {  # key: label, colour (Okabe and Ito's, told apart by colour-blind readers), line style
    MEASURED: ("measured cos(m, g)", "#D55E00", "-"),
    PREDICTED: ("if w stood still, batches as drawn", "#0072B2", "--"),
    INDEPENDENT: ("if w stood still, independent batches", "#0072B2", ":"),
    BATCH: ("one batch, cos(g_B, g)", "#888888", "-"),
}


def read(directory: Path) -> pd.DataFrame:
    """Return one row for each measurement: lmbda, seed, epoch, and the keys of LINES."""
    rows = []
    for run in find_runs([directory]):
        config = yaml.safe_load((run / "config.yaml").read_text())
        settings = {"lmbda": config["optimizer"]["lmbda"], "seed": config["seed"]}
        rows += [{**settings, **row} for row in read_rows(run) if MEASURED in row]
    return pd.DataFrame(rows)[["lmbda", "seed", "epoch", "train/lr", *LINES]]


def draw(frame: pd.DataFrame, out: Path) -> None:
    """Draw one panel for each lambda: the mean over seeds, and the range as a band."""
    lambdas = sorted(frame["lmbda"].unique())
    size = (3.4 * len(lambdas), 3.6)
    figure, grid = plt.subplots(1, len(lambdas), figsize=size, sharey=True, squeeze=False, layout="constrained")
    panels = grid[0]
    for panel, lmbda in zip(panels, lambdas):
        by_epoch = frame[frame["lmbda"] == lmbda].groupby("epoch")
        for key, (label, colour, style) in LINES.items():
            values = by_epoch[key]
            epochs = values.mean().index
            panel.plot(epochs, values.mean(), style, color=colour, label=label, linewidth=1.8)
            panel.fill_between(epochs, values.min(), values.max(), color=colour, alpha=0.15, linewidth=0)
        panel.set_title(f"$\\lambda$ = {lmbda:g}")
        panel.set_xlabel("epoch")
        panel.set_ylim(min(0.0, 1.05 * float(frame[list(LINES)].min().min())), 1)
        panel.axhline(0, color="#888888", linewidth=0.6)
    panels[0].set_ylabel("cosine")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def table(frame: pd.DataFrame, num_rows: int = 6) -> str:
    """Return mean ± standard deviation over seeds at a few epochs, as Markdown."""
    epochs = sorted(frame["epoch"].unique())
    shown = sorted({epochs[round(i * (len(epochs) - 1) / (num_rows - 1))] for i in range(num_rows)})
    lines = ["| lambda | epoch | measured | predicted, as drawn | predicted, independent | one batch |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for lmbda in sorted(frame["lmbda"].unique()):
        for epoch in shown:
            here = frame[(frame["lmbda"] == lmbda) & (frame["epoch"] == epoch)]
            cells = [f"{here[key].mean():.3f} ± {here[key].std():.3f}" for key in LINES]
            lines.append(f"| {lmbda:g} | {epoch:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "ema_quality.svg")
    arguments = parser.parse_args()
    measurements = read(arguments.runs)
    draw(measurements, arguments.out)
    print(table(measurements))
    print(f"\n{measurements['seed'].nunique()} seeds; {arguments.out}")
