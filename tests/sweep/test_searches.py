"""What Hydra's own sweepers get from a launcher: the objective of each run, from validation data, or the error."""

import json
from collections import Counter

import pytest
from hydra.core.utils import JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from support.runs import TINY

from fsamlab.config import ConfigError
from fsamlab.config.compose import composing
from fsamlab.config.objective import is_search
from fsamlab.sweep.launcher import JobLauncher
from fsamlab.terminal.errors import JobFailed

OPTUNA = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}
BASIC = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}


class Toy(JobLauncher):
    """Trains nothing: a run of rho has the validation accuracy 1 - rho; a rho above 1 fails."""

    def __init__(self):
        self.ran = Counter()

    def run(self, jobs, on_submitted):
        for job in jobs:
            self.ran[job.directory.name] += 1
            job.directory.mkdir(parents=True, exist_ok=True)
            rho = job.config["optimizer"]["rho"]
            (job.directory / "status.json").write_text(json.dumps({"status": "finished"}))
            values = {"best/val/acc1": 1 - rho, "final/val/acc1": 0.5 - rho, "best/test/acc1": 0.3, "final/val/loss": 7}
            (job.directory / "summary.json").write_text(json.dumps(values))
        return ["it broke" if job.config["optimizer"]["rho"] > 1 else None for job in jobs]


@pytest.fixture(scope="module")
def composition(tmp_path_factory):
    """Hydra's context and the configuration of a sweep, composed once."""
    words = [*TINY, f"runs_dir={tmp_path_factory.mktemp('runs')}"]
    with composing(words) as context:
        yield context, context.config_loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN)


@pytest.fixture
def returned(composition, tmp_path):
    """Launch jobs with the words of a command line, as a sweeper of Hydra does; return launcher and results."""
    context, master = composition

    def launch(jobs, *words, sweeper=OPTUNA, first=0, wait=True):
        launcher = Toy()
        launcher.wait = wait
        with open_dict(master):
            master.hydra.sweeper = OmegaConf.create(sweeper)
        launcher.setup(hydra_context=context, task_function=None, config=master)
        return launcher, launcher.launch([[*TINY, f"runs_dir={tmp_path}", *words, *job] for job in jobs], first)

    return launch


def test_each_job_returns_the_objective_of_its_run(returned):
    jobs = [["optimizer.rho=0.1"], ["optimizer.rho=0.25"]]
    assert [one.return_value for one in returned(jobs)[1]] == [0.9, 0.75]
    assert [one.return_value for one in returned(jobs, "objective=final/val/acc1")[1]] == [0.4, 0.25]
    (done, *_) = returned(jobs)[1]
    assert "optimizer.rho=0.1" in done.overrides


def test_a_run_that_a_search_chooses_twice_is_trained_once(returned):
    launcher, found = returned([["optimizer.rho=0.1"], ["optimizer.rho=0.10"], ["optimizer.rho=0.2"]])
    assert [one.return_value for one in found] == [0.9, 0.9, 0.8]
    assert list(launcher.ran.values()) == [1, 1]


def test_a_failed_run_raises_where_the_sweeper_asks_for_its_value(returned, capsys):
    _, (good, bad) = returned([["optimizer.rho=0.1"], ["optimizer.rho=2"]])
    assert good.return_value == 0.9
    assert bad.status is JobStatus.FAILED
    with pytest.raises(JobFailed, match="it broke"):
        bad.return_value  # noqa: B018


def test_a_search_meets_settings_that_are_not_allowed(returned):
    """The sweeper counts them as failures; where the first ones are all wrong, the command is, and nothing starts."""
    launcher, (good, bad) = returned([["optimizer.rho=0.1"], ["optimizer.rho=-1"]])
    assert len(launcher.ran) == 1
    assert good.status is JobStatus.COMPLETED
    with pytest.raises(ConfigError, match=r"optimizer.rho=-1"):
        bad.return_value  # noqa: B018
    with pytest.raises(ConfigError, match=r"optimizer.rho=-1"):
        returned([["optimizer.rho=-1"]])
    _, (late,) = returned([["optimizer.rho=-1"]], first=4)
    assert late.status is JobStatus.FAILED
    with pytest.raises(ConfigError, match=r"optimizer.rho=-1"):  # a grid is checked before its first run
        returned([["optimizer.rho=0.1"], ["optimizer.rho=-1"]], sweeper=BASIC, first=4)


def test_a_search_without_validation_data_starts_nothing(returned):
    with pytest.raises(ConfigError, match=r"data.val_size=0: leaves no validation data"):
        returned([["optimizer.rho=0.1"]], "data.val_size=0")
    assert returned([["optimizer.rho=0.1"]], "data.val_size=0", sweeper=BASIC)[1][0].status is JobStatus.COMPLETED


def test_a_search_needs_a_launcher_that_waits(returned):
    with pytest.raises(ConfigError, match=r"hydra.launcher.wait=False: a search needs"):
        returned([["optimizer.rho=0.1"]], wait=False)
    assert returned([["optimizer.rho=0.1"]], sweeper=BASIC, wait=False)[1]


def test_a_finished_run_without_the_metric_is_named(returned):
    _, (bad,) = returned([["optimizer.rho=0.1"]], "objective=val/ema_acc1")
    with pytest.raises(ConfigError, match=r"objective=val/ema_acc1: .*has finished without a value"):
        bad.return_value  # noqa: B018
    assert returned([["optimizer.rho=0.1"]], "objective=val/ema_acc1", sweeper=BASIC)[1][0].return_value is None


@pytest.mark.parametrize(
    ("sweeper", "searches"),
    [
        (OPTUNA, True),
        (BASIC, False),
        ({"_target_": "hydra_plugins.fsamlab_plugins.CheckedSweeper"}, False),
        ({"_target_": "package.Mine"}, True),
    ],
)
def test_sweepers_that_search(sweeper, searches):
    assert is_search(sweeper) == searches
