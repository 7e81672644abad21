"""Every sweep of sweeps/ is what its figure or table needs: its configurations, with made-up results."""

import pandas as pd
import pytest
from support.made_frames import rows_of
from support.runs import ROOT
from support.sweeps import settings

from fsamlab.config import to_plain
from fsamlab.figures.measured import EMA_QUALITY
from fsamlab.report import figures
from fsamlab.results.collect import flatten

pytestmark = pytest.mark.long  # composes every setting of every sweep

DRAWN = {
    "fig1_decomposition": lambda runs, rows: figures.decomposition(runs, rows),
    "fig2a_components_sgd": lambda runs, rows: figures.components(runs),
    "fig2a_components_adamw": lambda runs, rows: figures.components(runs),
    "fig2b_other_batch": lambda runs, rows: figures.other_batch(runs),
    "fig2c_perturbation_batch": lambda runs, rows: figures.ascent_batch(runs),
    "fig3_rho": lambda runs, rows: figures.rho(runs),
    "fig4_batch_size": lambda runs, rows: figures.batch_size(runs),
    "ablation_lambda": lambda runs, rows: figures.versus(runs, "optimizer.lmbda"),
    "ablation_sigma": lambda runs, rows: figures.versus(runs, "optimizer.sigma"),
    "ema_quality": lambda runs, rows: figures.ema_quality(rows, runs),
    "quickstart": lambda runs, rows: figures.curves(rows, runs, "test/acc1"),
    "table_cifar": lambda runs, rows: figures.accuracy_table(runs),
    "table_label_noise": lambda runs, rows: figures.accuracy_table(runs),
    "noise_or_mean": lambda runs, rows: figures.tuned_table(runs),
    "noise_or_mean_digits": lambda runs, rows: figures.tuned_table(runs),
    "cost": lambda runs, rows: figures.cost_table(runs),
}


def made(sweep):
    """Return `runs`: the sweep's configurations with two seeds, accuracies that rise from one to the next."""
    results = []
    for place, config in enumerate(settings(sweep)):
        for seed in (0, 1):
            accuracy = 0.5 + 0.01 * place + 0.02 * seed
            best = {"best/test/acc1": accuracy, "final/val/acc1": accuracy} if config.data.val_size else {}
            results.append(
                {
                    **{**flatten(to_plain(config)), "seed": seed, "status": "finished", "cost/step_ms": 10.0},
                    **{"directory": f"{place}-{seed}", "final/test/acc1": accuracy, **best},
                }
            )
    return pd.DataFrame(results)


@pytest.mark.parametrize("sweep", sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))
def test_a_sweep_is_drawn(sweep):
    runs = made(sweep)
    cosines = {key.replace("/", "___"): [0.5, 0.25] for key in EMA_QUALITY}
    rows = rows_of(runs, test___acc1=[0.2, 0.4], perturbation___full_share=[0.2, 0.1], **cosines)
    assert DRAWN[sweep](runs, rows)
    if sweep == "table_cifar":
        first, *_ = figures.accuracy_table(runs).split("\n\n| ")[1].splitlines()
        assert first == "model | data | SGD | SAM | ASAM | F-SAM |"
        assert "| resnet18 | cifar100 | " in figures.accuracy_table(runs)
    if sweep == "table_label_noise":
        assert figures.accuracy_table(runs).count("| 0.8 | ") == 2  # at the best validation epoch and at the end


def test_the_halves_of_figure_2a_go_together():
    runs = pd.concat([made("fig2a_components_sgd"), made("fig2a_components_adamw")])
    assert [axes.get_title()[-5:] for axes in figures.components(runs).axes] == ["r SGD", "AdamW"]
