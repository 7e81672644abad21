"""The paper's figures and tables (arXiv 2403.12350) from the runs of a sweep.

    study = figures.load("runs/fig3_rho")             # one directory of runs, or several
    figures.save(figures.rho(study), "rho.pdf")
    figures.show(figures.rho(study))                  # as the last line of a notebook's cell

`runs` is the study or its frame of runs, `rows` is `study.rows`.

| function | shows | sweep |
| --- | --- | --- |
| decomposition(runs, rows) | Figure 1 | fig1_decomposition |
| components(runs) | Figure 2a | fig2a_components_sgd, fig2a_components_adamw |
| other_batch(runs) | Figure 2b | fig2b_other_batch |
| ascent_batch(runs) | Figures 2c, A5 | fig2c_perturbation_batch |
| rho(runs) | Figure 3 | fig3_rho |
| batch_size(runs) | Figure 4 | fig4_batch_size |
| versus(runs, key) | the ablations | ablation_lambda, ablation_sigma |
| by_method(runs) | any comparison of methods | quickstart |
| curves(rows, runs, key) | any metric over training; log_y=True on a logarithmic axis | any |
| ema_quality(rows, runs) | the EMA as an estimate of the full gradient | ema_quality |
| friendliness(runs, method) | how a step along each direction changes the losses | any, diagnostics=paper |
| sharpness(runs) | sharpness and curvature by method | any, `fsamlab measure ... diagnostics=full` |
| claims(verdicts) | the verdicts on claims, with intervals | any, `fsamlab verdict` |
| accuracy_table(runs) | the tables; form="latex" for a paper | table_cifar, table_label_noise, any |
| tuned_table(runs) | each method at the radius that validation chooses | noise_or_mean, any with several radii |
| paired_table(runs) | test accuracy minus SGD's at equal compute, seed by seed | any with SGD |
| cost_table(runs) | time of a step and of a training | cost |
| measured_table(runs), conventions_table(runs) | measured values, and what they depend on | any |
"""

from fsamlab.figures.accuracy import (
    ascent_batch,
    batch_size,
    by_method,
    components,
    other_batch,
    rho,
    versus,
)
from fsamlab.figures.canvas import ONE_COLUMN, TWO_COLUMNS, save, show
from fsamlab.figures.claims import claims
from fsamlab.figures.measured import ema_quality, ema_table, friendliness, sharpness
from fsamlab.figures.tables import (
    accuracy_table,
    conventions_table,
    cost_table,
    measured_table,
    paired_table,
    tuned_table,
)
from fsamlab.figures.training_curves import curves, decomposition
from fsamlab.results.frames import AT_BEST, AT_END
from fsamlab.results.loading import load

__all__ = [
    "AT_BEST",
    "AT_END",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "accuracy_table",
    "ascent_batch",
    "batch_size",
    "by_method",
    "claims",
    "components",
    "conventions_table",
    "cost_table",
    "curves",
    "decomposition",
    "ema_quality",
    "ema_table",
    "friendliness",
    "load",
    "measured_table",
    "other_batch",
    "paired_table",
    "rho",
    "save",
    "sharpness",
    "show",
    "tuned_table",
    "versus",
]
