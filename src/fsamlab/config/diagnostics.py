"""The schema of diagnostics: what is measured, how often, on what, under which conventions."""

from __future__ import annotations

from dataclasses import dataclass

from fsamlab.checks import COUNT, MISSING, Choice, ConfigError, check_fields, label, listed, number, word

BATCHNORM_MODES = ("eval", "reestimated", "batch")
QUANTITIES = (  # what diagnostics.quantities may list; diagnostics/quantities.py has a function for each
    "one_step",
    "m_sharpness",
    "worst_case",
    "m_worst_case",
    "average_case",
    "eigenvalues",
    "trace",
    "decomposition",
    "friendliness",
    "direction_curvature",
    "noise",
)

RADIUS = (1e-9, 1e6)  # below, fp32 has no difference of losses left to measure


@dataclass
class DiagnosticsConfig:
    """Which quantities are measured, how often, on which samples, under which conventions."""

    name: str = label(MISSING, 200)
    every_steps: int | None = number(None, 1, COUNT)  # the perturbation's free scalars while training; null is off
    # the quantities below while training, and at its end; null is off
    every_epochs: int | None = number(None, 1, 10**6)
    quantities: list[str] = listed([], Choice(QUANTITIES))
    num_samples: int | None = number(1024, 1, COUNT)  # of the training set, drawn by seed; null: all of it
    # sharpness and curvature
    batch_size: int = number(128, 1, COUNT)  # m of m-sharpness; of every pass over the samples
    batchnorm: str = word("eval", *BATCHNORM_MODES)
    augment: bool = False  # true: each sample with one fixed augmentation
    rho: float = number(0.05, *RADIUS)  # one radius for all methods, so that they can be compared
    adaptive: bool = True  # also in ASAM's metric
    rho_adaptive: float = number(0.5, *RADIUS)
    eta: float = number(0.01, 0, 1e6)  # ASAM's, official form
    num_ascent_steps: int = number(10, 1, 10_000)  # worst_case
    num_restarts: int = number(2, 1, 1000)  # worst_case: starts, at w and at random points of the ball
    num_pairs: int = number(5, 1, 10_000)  # average_case: draws, each with both signs
    num_eigenvalues: int = number(5, 1, 500)
    # eigenvalues: relative distance to the nearest true one, at most; the error is far below
    tolerance: float = number(1e-2, 1e-12, 1)
    # eigenvalues: Hessian products at most, each with a vector of memory; 50 to 60 do as a rule, while a net that has
    # fitted its samples may need more than 120
    max_products: int = number(120, 7, 10_000)
    num_probes: int = number(10, 1, 100_000)  # trace
    # decomposition, friendliness, direction_curvature, noise: batches as training makes them
    num_batches: int = number(8, 2, 10_000)  # coming batches that are taken apart; cosines scatter from one to the next
    # null: optimizer.rho where that is an l2 radius, else diagnostics.rho
    perturbation_rho: float | None = number(None, *RADIUS)

    def __post_init__(self) -> None:
        k = "diagnostics."
        check_fields(k, self)
        if self.every_epochs is not None and not self.quantities:
            raise ConfigError(
                k + "every_epochs", self.every_epochs, f"has nothing to measure; list some of {', '.join(QUANTITIES)}"
            )
