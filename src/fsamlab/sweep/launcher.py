"""The interface of all launchers: `run` takes frozen jobs.

Hydra's own interface, `launch`, takes overrides, which a job would have to compose when the job starts. Here `launch`
is only an adapter for Hydra's own sweepers; the commands of fsamlab call `run`.
"""

from __future__ import annotations

import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fsamlab.checks import ConfigError
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir.environment import code_version
from fsamlab.rundir.find import what_varies
from fsamlab.rundir.frozen_job import FrozenJob, all_train
from fsamlab.sweep.plan import compose_job


class JobLauncher(Launcher):
    """Starts frozen jobs; a launcher of your own is a subclass with `run`.

    Attributes:
        kind: the launcher's name in the record of a launch.
        in_process: whether the jobs wait in this process for their start, and do not start once the process has ended.
        detached: whether the jobs continue after :meth:`run` has returned or raised.
    """

    kind = "local"
    in_process = True
    detached = False
    config: DictConfig | None = None
    hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take Hydra's configuration; a frozen job names its task itself."""
        self.config, self.hydra_context = config, hydra_context

    @abstractmethod
    def run(self, jobs: Sequence[FrozenJob], on_submitted: Callable[[list[str]], None]) -> list[str | None]:
        """Run all jobs; a job that fails stops no other job.

        Args:
            jobs: the jobs to run. The directories that hold the jobs' directories exist.
            on_submitted: called by a launcher whose jobs wait elsewhere (`in_process` is false), each time that jobs
                were submitted, with the SLURM ids of all jobs submitted so far, in the order of `jobs`.

        Returns:
            For each job why the job failed, None if the job ended well; an empty list if the launcher did not wait.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the runs of `job_overrides`; only Hydra's own sweepers call this method."""
        assert self.config is not None
        assert self.hydra_context is not None
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        loader, code = self.hydra_context.config_loader, code_version(PROJECT_ROOT)
        jobs = [compose_job(loader, self.config, list(words)).freeze(code) for words in job_overrides]
        returns = []
        for job, failure in zip(jobs, self.run(jobs, lambda ids: None)):
            returns.append(JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED))
            if failure is not None:
                returns[-1].status, returns[-1]._return_value = JobStatus.FAILED, RuntimeError(failure)
        return returns

    def prepare(self) -> None:
        """Begin what jobs need and what takes long, before the jobs are composed; :meth:`run` may never be called."""

    def check(self, jobs: Sequence[FrozenJob] = ()) -> str | None:
        """Check the settings as far as this machine can, starting nothing.

        Args:
            jobs: the jobs that :meth:`run` would get.

        Returns:
            A line for the user about what each job will use; None if there is nothing to say.

        Raises:
            ConfigError: a setting has a value that is not allowed, or a job cannot run with the settings.
        """
        return None

    def check_number(self, number: int) -> None:
        """Check the settings against the number of runs of the sweep.

        Raises:
            ConfigError: a setting does not fit so many runs.
        """

    def cost(self, number: int) -> str | None:
        """Return in one line the jobs for so many runs, and what each job asks for; None if the machine is this one."""
        return None

    def cluster_name(self) -> str | None:
        """Return the name of the SLURM cluster that gets the jobs; None without SLURM, or without a name."""
        return None

    def configure_log(self) -> None:
        """Send the log to the places that Hydra's settings name."""
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


def make_launcher(context: HydraContext, config: DictConfig) -> JobLauncher:
    """Return the launcher of a composed configuration.

    Raises:
        ConfigError: a setting has a value that is not allowed, or the launcher cannot run frozen jobs.
    """

    def unused(cfg: Any) -> None:
        raise AssertionError("a frozen job names its task itself")

    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=unused, config=config)
    return checked(launcher)


def checked(launcher: Any) -> JobLauncher:
    """Return `launcher`, which Hydra made, if it can run frozen jobs.

    Raises:
        ConfigError: the launcher cannot run frozen jobs.
    """
    if not isinstance(launcher, JobLauncher):
        allowed = "cannot run frozen jobs; use hydra/launcher=local, slurm or slurm_cpu"
        raise ConfigError("hydra/launcher", type(launcher).__name__, allowed)
    return launcher


def names_on_board(jobs: Sequence[FrozenJob]) -> list[str]:
    """Return the name of each job for the table of a sweep: the run, and the settings in which the runs differ."""
    if not all_train(jobs):
        return [job.directory.parent.name for job in jobs]
    settings = what_varies([job.overrides for job in jobs])
    return [f"{job.directory.name} {setting}".strip() for job, setting in zip(jobs, settings)]


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
