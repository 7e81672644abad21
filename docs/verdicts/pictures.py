"""The pictures of docs/verdicts.md, from the collected runs beside this file.

python docs/verdicts/pictures.py [DIRECTORY]
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fsamlab.report import figures

HERE = Path(__file__).parent
RADIUS = {  # of each direction on digits with 40 % label noise: what validation data chose
    **{"sgd": 0.0, "sgd_2x": 0.0, "sam": 0.4, "fsam": 0.8, "sam_full": 0.8, "sam_noise": 0.8, "sam_full_ema": 0.8},
    **{"vasso": 0.4, "sam_db": 1.6, "fsam_quarter": 1.6, "random": 0.8},
}


def pictures() -> dict[str, Figure]:
    """Return {name of the file: the picture}."""
    mini, settings, fashion, apart = (
        pd.read_csv(HERE / f"{name}.csv") for name in ("mini", "settings", "fashion", "friendliness")
    )
    mini = pd.concat([mini, settings])
    mini = mini[mini["optimizer.lmbda"].isna() | (mini["optimizer.lmbda"] == 0.9) | (mini["optimizer.name"] == "vasso")]
    noise = mini[mini["data.label_noise"] == 0.4]
    drawn = {f"rho_noise_{share}": rho(mini[mini["data.label_noise"] == share / 100]) for share in (20, 40, 60)}
    drawn["rho_few_images"] = rho(mini[mini["data.train_size"] == 100])
    drawn["rho_fashion"] = rho(fashion[fashion["data.label_noise"] == 0])
    drawn["rho_fashion_noise"] = rho(fashion[fashion["data.label_noise"] == 0.4])
    drawn["directions"] = figures.by_method(noise[noise["optimizer.rho"] == noise["optimizer.name"].map(RADIUS)])
    sizes = noise["optimizer.name"].isin(["sam", "sam_batch"]) & (noise["optimizer.rho"] == 0.8)
    drawn["ascent_batch"] = figures.ascent_batch(noise[sizes])
    drawn["friendliness"] = figures.friendliness(apart[apart["optimizer.lmbda"] == 0.9])
    return drawn


def rho(runs: pd.DataFrame) -> Figure:
    """Return SAM and F-SAM over the radius, SGD at equal compute as a line."""
    return figures.rho(runs[runs["optimizer.name"].isin(["sgd_2x", "sam", "fsam"])])


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, figure in pictures().items():
        figures.save(figure, place / f"{name}.svg")
