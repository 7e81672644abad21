"""Hydra's Optuna sweeper with launch.py; .ci/run installs the plugin, which needs Optuna 2, in a place of its own."""

import importlib.util
import os

import pytest
import yaml
from support.runs import TINY

from fsamlab.rundir.objective import objective_of

pytestmark = pytest.mark.long
REQUIRE = "FSAMLAB_REQUIRE_OPTUNA_SWEEPER"
SEARCH = (*("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1"), *TINY)


@pytest.fixture(autouse=True)
def plugin():
    """Skip where the plugin is not installed; fail if FSAMLAB_REQUIRE_OPTUNA_SWEEPER asks for it."""
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        if os.environ.get(REQUIRE):
            pytest.fail(f"{REQUIRE} is set, and hydra-optuna-sweeper is not installed")
        pytest.skip("needs hydra-optuna-sweeper, see docs/tuning.md")


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_the_search_gets_validation_values_and_finds_the_best(launch, tmp_path, launcher):
    words = (*SEARCH, "name=s", f"hydra/launcher={launcher}", "train.max_steps=6", "optimizer.rho=interval(0.01,0.5)")
    done = launch(*words, "hydra.sweeper.direction=minimize", "objective=val/loss", "hydra.sweeper.n_jobs=2")
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "runs" / "s").glob("fsam-*"))
    assert len(runs) == 3
    values = {objective_of(run, "val/loss"): run for run in runs}
    found = yaml.safe_load((tmp_path / "runs" / "s" / "optimization_results.yaml").read_text())
    assert found["best_value"] == min(values)
    config = yaml.safe_load((values[min(values)] / "config.yaml").read_text())
    assert config["optimizer"]["rho"] == found["best_params"]["optimizer.rho"]
    if launcher == "basic":
        return
    before = (runs[0] / "metrics.jsonl").stat().st_mtime_ns
    again = launch(*words, "hydra.sweeper.direction=minimize", "objective=val/loss", "hydra.sweeper.n_jobs=2")
    assert again.returncode == 0, again.stderr  # finished runs have a value too
    assert (runs[0] / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_mistake_is_one_line(launch):
    for words, line in (
        (("data.val_size=0",), "error: data.val_size=0: leaves no validation data"),
        (("objective=test/acc1",), "error: objective=test/acc1: must be a metric of the validation data"),
    ):
        done = launch(*SEARCH, "optimizer.rho=choice(0.1,0.2)", *words)
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith(line)
        assert "Traceback" not in done.stderr
