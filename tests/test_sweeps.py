"""Every sweep file composes, and every one of its jobs passes the checks that a launch makes."""

import itertools

import pytest
import yaml
from helpers import ROOT

SWEEPS = sorted(p.stem for p in (ROOT / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_job_of_a_sweep_is_valid(composed, sweep):
    params = yaml.safe_load((ROOT / "sweeps" / f"{sweep}.yaml").read_text())["hydra"]["sweeper"]["params"]
    axes = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    jobs = list(itertools.product(*axes))
    assert len(jobs) > 1
    for job in jobs:
        assert composed(f"+sweeps={sweep}", *job).name == sweep


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_says_what_it_reproduces_and_costs(sweep):
    header = (ROOT / "sweeps" / f"{sweep}.yaml").read_text().partition("defaults:")[0]
    assert "minutes" in header or "hours" in header
