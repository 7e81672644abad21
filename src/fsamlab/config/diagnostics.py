"""The schema of diagnostics: what is measured, how often, on what, under which conventions."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsamlab.config.checks import MISSING, ConfigError, in_range, one_of

BATCHNORM_MODES = ("eval", "reestimated", "batch")
QUANTITIES = (  # what diagnostics.quantities may list; diagnostics/quantities.py has a function for each
    "one_step",
    "m_sharpness",
    "worst_case",
    "average_case",
    "eigenvalues",
    "trace",
    "decomposition",
    "friendliness",
    "direction_curvature",
    "noise",
)


@dataclass
class DiagnosticsConfig:
    """Which quantities are measured, how often, on which samples, under which conventions."""

    name: str = MISSING
    every_steps: int | None = None  # the perturbation's free scalars while training; null is off
    every_epochs: int | None = None  # the quantities below while training, and at its end; null is off
    quantities: list[str] = field(default_factory=list)
    num_samples: int | None = 1024  # of the training set, drawn by seed; null: all of it
    # sharpness and curvature
    batch_size: int = 128  # m of m-sharpness; of every pass over the samples
    batchnorm: str = "eval"  # eval | reestimated | batch
    augment: bool = False  # true: each sample with one fixed augmentation
    rho: float = 0.05  # one radius for all methods, so that they can be compared
    adaptive: bool = True  # also in ASAM's metric
    rho_adaptive: float = 0.5
    eta: float = 0.01  # ASAM's, official form
    num_ascent_steps: int = 10  # worst_case
    num_restarts: int = 1  # worst_case
    num_pairs: int = 5  # average_case: draws, each with both signs
    num_eigenvalues: int = 5
    tolerance: float = 1e-2  # eigenvalues: relative distance to the nearest true one, at most; the error is far below
    max_products: int = 80  # eigenvalues: Hessian products, each with a vector of memory
    num_probes: int = 10  # trace
    # decomposition, friendliness, direction_curvature, noise: batches as training makes them
    num_batches: int = 8  # coming batches that are taken apart; cosines scatter much from one to the next
    perturbation_rho: float | None = None  # null: optimizer.rho where that is an l2 radius, else diagnostics.rho

    def __post_init__(self) -> None:
        k = "diagnostics."
        for name in self.quantities:
            one_of(k + "quantities", name, QUANTITIES)
        one_of(k + "batchnorm", self.batchnorm, BATCHNORM_MODES)
        for name in ("every_steps", "every_epochs", "num_samples", "batch_size", "num_ascent_steps", "num_restarts"):
            in_range(k + name, getattr(self, name), 1)
        for name in ("num_pairs", "num_eigenvalues", "num_probes"):
            in_range(k + name, getattr(self, name), 1)
        in_range(k + "max_products", self.max_products, 7)
        in_range(k + "num_batches", self.num_batches, 2)
        for name in ("rho", "rho_adaptive", "perturbation_rho", "tolerance"):
            in_range(k + name, getattr(self, name), 0, open_low=True)
        in_range(k + "eta", self.eta, 0)
        if self.every_epochs is not None and not self.quantities:
            raise ConfigError(
                k + "every_epochs", self.every_epochs, f"has nothing to measure; list some of {', '.join(QUANTITIES)}"
            )
