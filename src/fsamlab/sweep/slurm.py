"""The cluster launcher: submits a sweep as array jobs through submitit, and reads results from the run directories.

It takes the settings of hydra-submitit-launcher, and differs from it in six points: jobs are frozen at submission
(job.py); SLURM shows a task that raised an error as FAILED; the results of other jobs survive a killed job; the jobs do
not need this process after the submission; Ctrl-C leaves the jobs running; a job can hold several runs (packed.py).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from fsamlab.checks import ConfigError
from fsamlab.rundir.frozen_job import FrozenJob, all_train
from fsamlab.sweep import task_logs
from fsamlab.sweep.arrays import ArrayPart, arrays_of
from fsamlab.sweep.cluster import base_id, cancel_command, job_states, local_cluster
from fsamlab.sweep.job import JobRunner
from fsamlab.sweep.launcher import JobLauncher, terminated_like_interrupted
from fsamlab.sweep.packed import PackRunner
from fsamlab.sweep.packs import in_jobs, packs_of, shares
from fsamlab.sweep.rendezvous import VARIABLES
from fsamlab.sweep.settings import check_settings, refusal
from fsamlab.sweep.tasks import Tasks
from fsamlab.sweep.waiting import wait_for
from fsamlab.terminal.errors import SweepFailed
from fsamlab.terminal.text import counted, project_relative

log = logging.getLogger(__name__)

OWN = ("cluster", "wait", "poll_seconds", "max_array_size", "submitit_folder", "max_num_timeout", "python")
COMMON = (  # settings that submitit calls by the same name on every cluster
    *("name", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb"),
    *("timeout_min", "stderr_to_stdout"),
)
# A task that dies ends the job: the others would wait for it in a collective. A task that ends well ends no other task:
# the first task still writes files and uploads rows.
WITH_SEVERAL_TASKS = ("--kill-on-bad-exit=1", "--wait=0")
AT_ONCE = 256  # submitit's default for array_parallelism
SIGNAL_DELAY = 90  # submitit's default for signal_delay_s


class SubmititLauncher(JobLauncher, BaseSubmititLauncher):
    """Submits jobs as arrays, and waits for their end if `wait` is true.

    Args:
        cluster: slurm, or local for submitit's local executor, which runs all jobs at once on this machine.
        wait: whether to wait until the last job has ended.
        poll_seconds: time between two checks of the jobs.
        max_array_size: largest number of jobs in an array; a longer sweep becomes several arrays.
        runs_per_job: how many runs a job runs side by side.
        params: settings of hydra-submitit-launcher, under its names.
    """

    def __init__(
        self,
        cluster: str = "slurm",
        wait: bool = True,
        poll_seconds: float = 10.0,
        max_array_size: int = 1000,
        runs_per_job: int = 1,
        **params: Any,
    ) -> None:
        own = {"cluster": cluster, "wait": wait, "poll_seconds": poll_seconds, "max_array_size": max_array_size}
        check_settings({**own, "runs_per_job": runs_per_job, **params})
        self.tasks = Tasks.of(params, cluster, runs_per_job)
        super().__init__(**params)
        self.cluster, self.wait, self.poll_seconds, self.max_array_size = cluster, wait, poll_seconds, max_array_size
        self.runs_per_job = runs_per_job
        self.kind, self.in_process = cluster, cluster != "slurm"
        self.elsewhere: str | None = None  # name of the cluster, if it is not the default of SLURM's tools

    def cluster_name(self) -> str | None:
        """Return the name of the SLURM cluster that gets the jobs; None if it is not known.

        Raises:
            ConfigError: the settings name several clusters.
        """
        if self.cluster != "slurm":
            return None
        flags = self.params.get("additional_parameters") or {}
        chosen = flags.get("clusters") or flags.get("M") or os.environ.get("SBATCH_CLUSTERS")
        if chosen is not None and ("," in str(chosen) or str(chosen) == "all"):
            key = "hydra.launcher.additional_parameters.clusters"
            raise ConfigError(key, chosen, "has to be the name of one cluster, which is asked about the jobs later")
        return str(chosen) if chosen else local_cluster()

    def executor(self) -> Any:
        """Return submitit's executor with these settings.

        Raises:
            ConfigError: SLURM is not on this machine, or sbatch does not have a setting.
        """
        import submitit

        params = {k: v for k, v in self.params.items() if k not in OWN and v is not None}
        params.update(nodes=self.tasks.nodes, tasks_per_node=self.tasks.per_node)
        if self.cluster == "slurm":
            # requeue, because sites have different defaults; and since SLURM 22.05 srun ignores sbatch's
            # --cpus-per-task
            params["additional_parameters"] = {"requeue": True, **params.get("additional_parameters", {})}
            cpus = 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"'
            params["setup"] = [cpus, *params.get("setup", [])]
            if self.tasks.number > 1:
                params["setup"] = [task_logs.MARK_START, *params["setup"]]
                params["srun_args"] = [*WITH_SEVERAL_TASKS, *params.get("srun_args", [])]
        first = {k: self.params[k] for k in ("max_num_timeout", "python") if self.params.get(k) is not None}
        try:
            executor = submitit.AutoExecutor(
                folder=self.params["submitit_folder"],
                cluster=self.cluster,
                **{f"{self.cluster}_{k}": v for k, v in first.items()},
            )
            executor.update_parameters(**{k if k in COMMON else f"slurm_{k}": v for k, v in params.items()})
        except RuntimeError as e:
            raise ConfigError("hydra/launcher", "slurm", f"{e} Use hydra/launcher=local on this machine") from e
        except (NameError, ValueError, TypeError) as e:
            text = " ".join(str(e).split())
            unknown = re.search(r"Unknown argument '(\w+)'", text)
            valid = re.search(r"Valid arguments: ([\w, ]+?) Known", text)
            if unknown is None or valid is None:
                raise ConfigError("hydra.launcher", "these settings", text) from e
            key = f"hydra.launcher.{unknown[1]}"
            known = f"{', '.join((*COMMON, *valid[1].split(', ')))}; other sbatch flags go into additional_parameters"
            raise ConfigError(key, params[unknown[1]], f"is not a setting of submitit, which has {known}") from e
        return executor

    def check(self, jobs: Sequence[FrozenJob] = ()) -> str:
        """Check the settings as far as this machine can, without submitting anything; return what a job uses.

        Raises:
            ConfigError: sbatch does not have a setting, or a job cannot use several tasks.
        """
        self.tasks.check(jobs)
        if self.cluster == "slurm" and shutil.which("srun") is None:
            log.warning("there is no SLURM on this machine: the launcher's settings were not checked")
        else:
            self.executor()
        line = f"each job has {self.tasks}{self.tasks.cost(self.params.get('timeout_min'))}"
        if self.runs_per_job > 1:
            shared = shares(self.runs_per_job, self.params.get("cpus_per_task") or 1)
            line = f"{counted(len(jobs), 'run')} in {in_jobs(len(jobs), self.runs_per_job)}; {line}; {shared}"
        return line

    def check_number(self, number: int) -> None:
        """Refuse a sweep with fewer runs than one job would hold: the shares of the missing runs would be wasted.

        Raises:
            ConfigError: `runs_per_job` is larger than the number of runs of the sweep.
        """
        if self.runs_per_job > number:
            allowed = f"the sweep has {counted(number, 'run')}: use at most {number}"
            raise ConfigError("hydra.launcher.runs_per_job", self.runs_per_job, allowed)

    def run(self, jobs: Sequence[FrozenJob], on_submitted: Callable[[list[str]], None]) -> list[str | None]:
        """Submit the jobs, log which jobs were submitted, and wait for their end.

        Raises:
            ConfigError: a job cannot use several tasks, or sbatch refused the jobs. Nothing was submitted.
        """
        self.tasks.check(jobs)
        self.configure_log()
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        name = self.cluster_name()
        self.elsewhere = None if name is None or name == local_cluster() else name
        handles: list[Any] = []
        self.detached = False
        try:
            self._submit(jobs, handles, on_submitted)
        except BaseException:
            self.detached = bool(handles)  # submitted jobs continue without this process
            if handles:
                self._tell(jobs, [str(handle.job_id) for handle in handles])
            raise
        ids = [str(handle.job_id) for handle in handles]
        cancel = self._tell(jobs, ids)
        if not self.wait:
            self.detached = True
            return []
        log.info("waiting for them; Ctrl-C leaves them running")
        try:
            with terminated_like_interrupted():
                return wait_for(
                    jobs,
                    lambda running: self._active(handles, ids, running),
                    since,
                    self.poll_seconds,
                    shared=self.runs_per_job > 1,
                )
        except KeyboardInterrupt:
            self.detached = True
            log.warning("the jobs continue without this process")
            log.warning("  watch   %s", self._watch(jobs, ids))
            log.warning("  cancel  %s", cancel)
            raise
        except BaseException:  # the jobs continue, even if this process fails
            self.detached = True
            raise

    def _sweep_dir(self) -> str:
        assert self.config is not None
        return project_relative(Path(str(self.config.hydra.sweep.dir)))

    def _watch(self, jobs: Sequence[FrozenJob], ids: list[str]) -> str:
        """Return the command that shows the progress of the jobs; `fsamlab status` knows only jobs that train."""
        if all_train(jobs):
            return f"fsamlab status {self._sweep_dir()} --watch"
        elsewhere = f"-M {self.elsewhere} " if self.elsewhere else ""
        return f"squeue {elsewhere}-j {','.join(dict.fromkeys(map(base_id, ids)))}"

    def _tell(self, jobs: Sequence[FrozenJob], ids: list[str]) -> str:
        """Log which jobs were submitted, where they write and how to stop them; return the command that stops them."""
        where = f"kill {' '.join(ids)}"
        cancel = str(cancel_command(ids, cluster=self.elsewhere)) if self.cluster == "slurm" else where
        arrays = Counter(base_id(i) for i in dict.fromkeys(ids))
        names = ", ".join(f"{base}_[0-{n - 1}]" if n > 1 else base for base, n in arrays.items())
        sweep_dir = self._sweep_dir()
        if self.runs_per_job > 1:
            log.info("%s submitted in %s: %s", counted(len(ids), "run"), in_jobs(len(ids), self.runs_per_job), names)
        else:
            each = f"; each has {self.tasks}" if self.tasks.number > 1 else ""
            log.info("%d jobs submitted: %s%s", len(ids), names, each)
        log.info("  directories  %s/", sweep_dir)
        run = "RUN" if all_train(jobs) else f"RUN/{jobs[0].directory.name}"
        log.info("  logs         %s/%s/run.log, %s/.submitit/JOB/", sweep_dir, run, sweep_dir)
        log.info("  watch        %s", self._watch(jobs, ids))
        if not all_train(jobs):
            log.info("  values       %s/%s/*.jsonl; fsamlab collect %s", sweep_dir, run, sweep_dir)
        log.info("  cancel       %s", cancel)
        return cancel

    def _submit(self, jobs: Sequence[FrozenJob], handles: list[Any], on_submitted: Callable[[list[str]], None]) -> None:
        """Submit all arrays. After each array, append its jobs to `handles` and give all SLURM ids to `on_submitted`.

        Raises:
            ConfigError: sbatch refused the first array, so nothing was submitted.
            SweepFailed: sbatch refused a later array.
        """
        executor = self.executor()
        folder = Path(str(self.params["submitit_folder"])).parent
        runner: Any = JobRunner()
        units: Sequence[Any] = jobs  # what one SLURM job runs
        sizes = [1] * len(jobs)
        if self.runs_per_job > 1:
            delay = self.params.get("signal_delay_s")
            runner, units = PackRunner(), packs_of(jobs, self.runs_per_job, SIGNAL_DELAY if delay is None else delay)
            sizes = [len(pack.jobs) for pack in units]
        parts = arrays_of(len(units), self.max_array_size, self.params.get("array_parallelism") or AT_ONCE)
        first_ids: list[str] = []
        for part in parts:
            before = set(folder.glob("*.pkl"))
            if len(parts) > 1 and self.cluster == "slurm":
                self._bound(executor, part, first_ids)
            try:
                with outside_of_a_job():
                    accepted = executor.map_array(runner, units[part.start : part.stop])
            except Exception as e:  # for example a partition, an account or a number of GPUs that sbatch refuses
                for pickle in set(folder.glob("*.pkl")) - before:  # files of jobs that were not submitted
                    pickle.unlink(missing_ok=True)
                if type(e).__name__ not in ("FailedJobError", "FailedSubmissionError"):
                    raise
                last = [line for line in str(e).splitlines() if line.strip()][-1]
                if handles:
                    refused = f"the other {len(jobs) - len(handles)} were refused: {last}"
                    later = "`fsamlab resubmit` submits the refused runs"
                    raise SweepFailed(f"{len(handles)} runs were submitted and continue, {refused}; {later}") from e
                raise refusal(last) from e
            handles += [handle for handle, size in zip(accepted, sizes[part.start : part.stop]) for _ in range(size)]
            first_ids.append(base_id(str(accepted[0].job_id)))
            if not self.in_process:
                on_submitted([str(handle.job_id) for handle in handles])

    def _bound(self, executor: Any, part: ArrayPart, first_ids: list[str]) -> None:
        """Set the array's share of `array_parallelism`, and the array whose end it waits for."""
        flags = {"requeue": True, **(self.params.get("additional_parameters") or {})}
        if part.after is not None:
            own = flags.get("dependency")
            if own and "?" in str(own):
                allowed = "cannot be joined with the order of this sweep's arrays: raise array_parallelism"
                raise ConfigError("hydra.launcher.additional_parameters.dependency", own, allowed)
            flags["dependency"] = ",".join([*([str(own)] if own else []), f"afterany:{first_ids[part.after]}"])
        executor.update_parameters(slurm_array_parallelism=part.at_once, slurm_additional_parameters=flags)

    def _active(self, handles: list[Any], ids: list[str], running: set[int]) -> set[int]:
        """Return the numbers of the jobs in `running` that may still write files."""
        if self.cluster == "local":
            return {i for i in running if not handles[i].done()}
        states = job_states((ids[i] for i in running), self.elsewhere)
        if states.problem:  # without squeue, accounting may call a job ended that SLURM is about to start again
            return set(running)
        return {i for i in running if ids[i] not in states or states[ids[i]].active}  # an unknown job may be active


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Hide the variables of an outer job of SLURM or torchrun.

    sbatch passes on the environment, and a job would take the variables for its own.
    """
    hidden = {k: v for k, v in os.environ.items() if k.startswith("SLURM_") and k != "SLURM_CONF"}
    hidden.update({k: v for k, v in os.environ.items() if k in VARIABLES or k.startswith("TORCHELASTIC_")})
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)
