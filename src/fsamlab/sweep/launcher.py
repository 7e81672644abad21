"""The interface of all launchers: `run` takes frozen jobs.

Hydra's own interface, `launch`, takes overrides, which a job would have to compose when the job starts. Here `launch`
is only an adapter for Hydra's own sweepers; the commands of fsamlab call `run`.
"""

from __future__ import annotations

import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fsamlab.checks import ConfigError
from fsamlab.config import from_plain
from fsamlab.config.objective import check_validation, is_search, no_objective
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.rundir.environment import code_version
from fsamlab.rundir.find import what_varies
from fsamlab.rundir.frozen_job import FrozenJob, all_train
from fsamlab.rundir.objective import objective_of
from fsamlab.sweep.plan import compose_job
from fsamlab.terminal.errors import JobFailed, one_line


class JobLauncher(Launcher):
    """Starts frozen jobs; a launcher of your own is a subclass with `run`.

    Attributes:
        kind: the launcher's name in the record of a launch.
        in_process: whether the jobs wait in this process for their start, and do not start once the process has ended.
        detached: whether the jobs continue after :meth:`run` has returned or raised.
        wait: whether :meth:`run` waits for the end of the jobs.
    """

    kind = "local"
    in_process = True
    detached = False
    wait = True
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
        """Train the runs of `job_overrides`; only Hydra's own sweepers call this method.

        Returns:
            For each job the objective of its run, or the error. A sweeper that searches may choose the same run twice:
            the run is trained once. Empty if the launcher does not wait.

        Raises:
            ConfigError: a search has no validation split, or cannot wait for its runs.
            ConfigError, Hydra's and OmegaConf's errors: a job cannot be composed. In a search such a job fails alone,
                because the sweeper knows how many failures are too many.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        searches = is_search(self.config.hydra.sweeper)
        if searches and not self.wait:
            raise ConfigError("hydra.launcher.wait", False, "a search needs the results of its runs; leave it true")
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        loader, code = self.hydra_context.config_loader, code_version(PROJECT_ROOT)
        found: list[FrozenJob | Exception] = []
        for words in job_overrides:
            try:
                found.append(compose_job(loader, self.config, list(words)).freeze(code))
            except Exception as e:
                if not searches or one_line(e) is None:
                    raise
                found.append(e)
        jobs = {job.directory: job for job in found if isinstance(job, FrozenJob)}
        if not jobs and initial_job_idx == 0:  # at the start of a search the mistake is in the command
            raise next(e for e in found if isinstance(e, Exception))
        for job in jobs.values() if searches else ():
            check_validation(from_plain(job.config).data)
        failures = dict(zip(jobs, self.run(list(jobs.values()), lambda ids: None) if jobs else []))
        if jobs and not failures:
            return []
        return [_returned(list(words), job, failures, searches) for words, job in zip(job_overrides, found)]

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


def _returned(
    words: list[str], job: FrozenJob | Exception, failures: Mapping[Path, str | None], searches: bool
) -> JobReturn:
    """Return what Hydra's sweepers get for a job: the objective of its run, or the error."""
    value: Any = job
    if isinstance(job, FrozenJob):
        metric, failure = job.config.get("objective"), failures[job.directory]
        value = objective_of(job.directory, metric) if failure is None else JobFailed(failure)
        if value is None and searches:
            value = no_objective(metric, job.directory)
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    return JobReturn(overrides=words, status=status, _return_value=value)


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
