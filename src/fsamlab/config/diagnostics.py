"""The schema of diagnostics: which quantities, how often, on which samples, under which conventions."""

from __future__ import annotations

from dataclasses import dataclass

from fsamlab.checks import COUNT, MISSING, Choice, ConfigError, check_fields, label, listed, number, word

BATCHNORM_MODES = ("eval", "reestimated", "batch")
QUANTITIES = (  # the allowed values of diagnostics.quantities; diagnostics/quantities.py has a function for each
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
OF_COMING_BATCHES = QUANTITIES[-4:]  # these read batches as training makes them

RADIUS = (1e-9, 1e6)  # below, the difference of two losses is lost in the rounding of fp32


@dataclass
class DiagnosticsConfig:
    """Which quantities are measured, how often, on which samples, under which conventions."""

    name: str = label(MISSING, 200)
    # Log the scalars of the perturbation, which cost nothing; null is off.
    every_steps: int | None = number(None, 1, COUNT)
    # measure the quantities below during and at the end of training; null is off
    every_epochs: int | None = number(None, 1, 10**6)
    quantities: list[str] = listed([], Choice(QUANTITIES))
    num_samples: int | None = number(1024, 1, COUNT)  # of the training set, drawn by seed; null: all of it
    # sharpness and curvature
    batch_size: int = number(128, 1, COUNT)  # m of m-sharpness, and the batch size of every pass over the samples
    batchnorm: str = word("eval", *BATCHNORM_MODES)
    augment: bool = False  # true: each sample gets one fixed augmentation
    rho: float = number(0.05, *RADIUS)  # one radius for all methods, so that their values can be compared
    adaptive: bool = True  # measure in ASAM's metric too
    rho_adaptive: float = number(0.5, *RADIUS)
    eta: float = number(0.01, 0, 1e6)  # the eta of ASAM, in the form of the official code
    num_ascent_steps: int = number(10, 1, 10_000)  # worst_case
    num_restarts: int = number(2, 1, 1000)  # worst_case: number of starts, at w and at random points of the ball
    num_pairs: int = number(5, 1, 10_000)  # average_case: number of draws, each with both signs
    num_eigenvalues: int = number(5, 1, 500)
    # eigenvalues: bound on the relative distance to the nearest true eigenvalue; the error is far smaller
    tolerance: float = number(1e-2, 1e-12, 1)
    # eigenvalues: largest number of Hessian products, each of which keeps a vector in memory; 50 to 60 are usually
    # enough, but a net that has fitted its samples may need more than 120
    max_products: int = number(120, 7, 10_000)
    num_probes: int = number(10, 1, 100_000)  # trace
    # decomposition, friendliness, direction_curvature, noise: on batches as training makes them
    num_batches: int = number(8, 2, 10_000)  # number of coming batches to decompose; cosines differ from batch to batch
    # null: optimizer.rho if that is an l2 radius, else diagnostics.rho
    perturbation_rho: float | None = number(None, *RADIUS)

    def __post_init__(self) -> None:
        k = "diagnostics."
        check_fields(k, self)
        if self.every_epochs is not None and not self.quantities:
            raise ConfigError(
                k + "every_epochs",
                self.every_epochs,
                f"has nothing to measure; set diagnostics.quantities to some of {', '.join(QUANTITIES)}",
            )

    def check_num_train(self, num_train: int, batch_size: int) -> None:
        """Refuse a training set that has too few samples for the coming batches.

        Args:
            num_train: number of samples of the training set.
            batch_size: batch size of training.

        Raises:
            ConfigError: it has.
        """
        need = (self.num_batches + 2) * batch_size
        if need > num_train and set(self.quantities) & set(OF_COMING_BATCHES):
            raise ConfigError(
                "diagnostics.num_batches",
                self.num_batches,
                f"to decompose so many batches of {batch_size} needs {need} training samples, but there are "
                f"{num_train}; lower this number or data.batch_size, or choose other diagnostics.quantities",
            )
