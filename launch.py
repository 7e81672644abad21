"""Compose a run from conf/ and train it; with -m, train every run of a sweep.

`python launch.py --help` lists the groups and examples. fsamlab/run/__init__.py is the file to read next.
"""

import hydra
from omegaconf import DictConfig

from fsamlab.command.launch import enter
from fsamlab.config.project import CONF
from fsamlab.quick_import import uncollected


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one composed job; torch is imported here and not before. A sweeper that searches gets the returned number."""
    with uncollected():
        from fsamlab.run import run_composed

    return run_composed(cfg)


if __name__ == "__main__":
    enter(main, __file__)
