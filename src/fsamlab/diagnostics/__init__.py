"""Sharpness, curvature and the decomposition of the perturbation; definitions in docs/metrics.md.

    with measuring(model, batchnorm="eval"):
        objective = Objective(model, [(images, labels), ...])
        one_step(objective, rho=0.05).total
        hessian_eigenvalues(objective, num_top=5).top

Or all quantities at once, in any loop:

    diagnostics = Diagnostics.of_loop(loader)
    diagnostics.measure(Snapshot(model, optimizer, step))["sharpness/m_sharpness"]

The files, in reading order: context.py, objective.py, sharpness.py, curvature.py with lanczos.py, noise.py and
decomposition.py measure. quantities.py, samples.py, snapshot.py and suite.py make the measurements available as
`diagnostics=...`.
"""

from fsamlab.diagnostics.context import measuring
from fsamlab.diagnostics.curvature import Eigenvalues, along, hessian_eigenvalues, trace
from fsamlab.diagnostics.decomposition import Decomposition
from fsamlab.diagnostics.noise import GradientNoise, Sampling, gradient_noise
from fsamlab.diagnostics.objective import Hessian, Objective, cross_entropy
from fsamlab.diagnostics.sharpness import Rise, average_case, m_sharpness, m_worst_case, one_step, worst_case
from fsamlab.diagnostics.snapshot import Snapshot
from fsamlab.diagnostics.suite import Diagnostics

__all__ = [
    "Decomposition",
    "Diagnostics",
    "Eigenvalues",
    "GradientNoise",
    "Hessian",
    "Objective",
    "Rise",
    "Sampling",
    "Snapshot",
    "along",
    "average_case",
    "cross_entropy",
    "gradient_noise",
    "hessian_eigenvalues",
    "m_sharpness",
    "m_worst_case",
    "measuring",
    "one_step",
    "trace",
    "worst_case",
]
