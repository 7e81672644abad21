"""The allowed values of a launcher's settings (`hydra.launcher.KEY=VALUE`), and advice where sbatch refuses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsamlab.checks import COUNT, Choice, Number, Text, check_type
from fsamlab.config import ConfigError

PREFIX = "hydra.launcher."
YEARS = 5 * 366 * 24 * 60  # minutes

# setting: type, allowed values; submitit checks the settings that are not in this table
ALLOWED: dict[str, tuple[Any, Number | Choice | Text | None]] = {
    "cluster": (str, Choice(("slurm", "local"))),
    "wait": (bool, None),
    "poll_seconds": (float, Number(0.01, 24 * 3600)),
    "max_array_size": (int, Number(1, 10**7)),
    "runs_per_job": (int, Number(1, 1024)),
    "array_parallelism": (int | None, Number(1, COUNT)),
    "timeout_min": (int | None, Number(1, YEARS)),
    "signal_delay_s": (int | None, Number(0, 24 * 3600)),
    "max_num_timeout": (int | None, Number(0, COUNT)),
    "nodes": (int | None, Number(1, 4096)),
    "tasks_per_node": (int | None, Number(1, 1024)),
    "gpus_per_node": (int | None, Number(0, 64)),
    "cpus_per_task": (int | None, Number(1, 1024)),
    "mem_gb": (float | None, Number(0, 10**6, open_low=True)),
    "name": (str | None, Text(200)),
    "partition": (str | None, Text()),
    "account": (str | None, Text()),
    "qos": (str | None, Text()),
    "constraint": (str | None, Text()),
    "exclude": (str | None, Text()),
    "python": (str | None, Text()),
    "setup": (list[str] | None, None),
    "srun_args": (list[str] | None, None),
    "additional_parameters": (dict | None, None),
    "stderr_to_stdout": (bool, None),
    "num_jobs": (int | None, Number(1, 1024)),
    "threads_per_job": (int | None, Number(1, 1024)),
}
FORMS = {  # a text that users type in place of a number -> what to do
    "timeout_min": "in minutes: 1-00:00:00 is 1440",
    "gpus_per_node": "a kind of GPU goes into additional_parameters: {gres: gpu:a100:1}, with gpus_per_node=null",
    "mem_gb": "in GB, without a unit",
}
REFUSALS = {  # words in sbatch's message: (settings that can be wrong, how to find the right value)
    "Invalid job array specification": (
        "max_array_size",
        "must be below MaxArraySize of scontrol show config",
    ),
    "time limit is invalid": ("timeout_min", "sinfo shows the limit of each partition as TIMELIMIT"),
    "invalid partition": ("partition", "sinfo lists the partitions"),
    "account": ("account, partition", "sacctmgr show associations lists your accounts"),
    "qos": ("qos", "sacctmgr show qos lists the names"),
    "QOS": ("qos, array_parallelism, timeout_min", "a limit of the account or QOS"),
    "feature specification": ("constraint", "sinfo -o %f lists the features"),
    "Memory specification": ("mem_gb", "sinfo -o %m shows the memory of the nodes"),
    "node configuration is not available": (
        "cpus_per_task, mem_gb, gpus_per_node, tasks_per_node, constraint",
        "no node has all that these settings ask for",
    ),
    "CPU count": ("cpus_per_task", "sinfo -o %c shows the cores of the nodes"),
    "gres": ("gpus_per_node", "sinfo -o %G shows the GPUs of the nodes"),
    "Node count": ("nodes", "sinfo lists the nodes of each partition"),
    "node name": ("exclude", "sinfo -N lists the nodes"),
}


def check_settings(params: Mapping[str, Any]) -> None:
    """Refuse settings of a launcher with a value of another type or outside the allowed range.

    Raises:
        ConfigError: for the first such setting.
    """
    from omegaconf import OmegaConf

    for name, given in params.items():
        if name not in ALLOWED:
            continue
        value: Any = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
        kind, allowed = ALLOWED[name]
        try:
            check_type(PREFIX + name, value, kind)
        except ConfigError as e:
            if name in FORMS:
                raise ConfigError(PREFIX + name, value, f"{e.allowed}, {FORMS[name]}") from None
            raise
        if value is not None and allowed is not None:
            allowed.check(PREFIX + name, value)


def refusal(message: str) -> ConfigError:
    """Return the error for a submission that sbatch refused; it names the settings that can be the reason."""
    for words, (names, advice) in REFUSALS.items():
        if words in message:
            keys = ", ".join(PREFIX + name for name in names.split(", "))
            return ConfigError("hydra.launcher", "these settings", f"sbatch refused: {message} ({keys}; {advice})")
    return ConfigError("hydra.launcher", "these settings", f"sbatch refused: {message}")
