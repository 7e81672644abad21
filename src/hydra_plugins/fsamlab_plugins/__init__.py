"""fsamlab's Hydra plugins, thin: Hydra takes plugins only from here and loads this file by itself.

The code behind them lies in fsamlab, where it can be imported and pickled like any other.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from fsamlab.config.search import add_own_options
from fsamlab.sweep import local, slurm, sweeper
from fsamlab.sweep.tuning import sweeper as tuning


class CheckedSweeper(sweeper.CheckedSweeper):
    """Hydra's grid, every job checked before the first one starts."""


class TuneSweeper(tuning.TuneSweeper):
    """A search of the settings of each method."""


class LocalLauncher(local.LocalLauncher):
    """N jobs at once on this machine."""


class SubmititLauncher(slurm.SubmititLauncher):
    """Array jobs on SLURM."""


class StudyOptions(SearchPathPlugin):
    """The options of a study folder, beside those of fsamlab; without effect on other programs that use Hydra."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add conf/ of the study folder."""
        add_own_options(search_path)
