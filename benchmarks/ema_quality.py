"""The EMA's cosine with the full gradient over training, measured and predicted.

    python launch.py -m +sweeps=ema_quality
    python benchmarks/ema_quality.py runs/ema_quality

draws docs/ema_quality.svg (or --out FILE, .svg or .pdf) and prints the numbers as a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from fsamlab.report.figures import ema_quality, ema_table, load, save


def table(frame: pd.DataFrame, num_rows: int = 6) -> str:
    """Return mean ± standard deviation over seeds at a few epochs, as Markdown."""
    epochs = sorted(frame["epoch"].unique())
    shown = sorted({epochs[round(i * (len(epochs) - 1) / (num_rows - 1))] for i in range(num_rows)})
    lines = ["| lambda | epoch | measured | predicted, as drawn | predicted, independent | one batch |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for (lmbda, epoch), here in frame[frame["epoch"].isin(shown)].groupby(["optimizer.lmbda", "epoch"]):
        values = here.set_index("key")
        found = [values.loc[key] if key in values.index else None for key in frame["key"].unique()]
        cells = ["-" if v is None else f"{v['mean']:.3f} ± {v['std']:.3f}" for v in found]
        lines.append(f"| {lmbda:g} | {epoch:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "ema_quality.svg")
    arguments = parser.parse_args()
    runs, rows = load(arguments.runs)
    print(table(ema_table(rows, runs)))
    print(f"\n{runs['seed'].nunique()} seeds; {save(ema_quality(rows, runs), arguments.out)}")
