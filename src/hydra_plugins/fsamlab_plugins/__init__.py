"""fsamlab's Hydra plugins, thin: Hydra takes plugins only from here and loads this file by itself.

The code behind them is fsamlab.sweep, where it can be imported and pickled like any other.
"""

from fsamlab.sweep import local, slurm, sweeper


class CheckedSweeper(sweeper.CheckedSweeper):
    """Hydra's grid, every job checked before the first one starts."""


class LocalLauncher(local.LocalLauncher):
    """N jobs at once on this machine."""


class SubmititLauncher(slurm.SubmititLauncher):
    """Array jobs on SLURM."""
