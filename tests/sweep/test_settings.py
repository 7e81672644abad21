"""Settings of launchers are refused in one line that names the setting."""

import pytest

from fsamlab.checks import Number
from fsamlab.config import ConfigError
from fsamlab.sweep.local import LocalLauncher
from fsamlab.sweep.settings import ALLOWED, REFUSALS, check_settings, refusal
from fsamlab.sweep.slurm import SubmititLauncher

WRONG = [
    ("gpus_per_node", 65, "must be finite and >= 0 and <= 64"),
    ("gpus_per_node", "a100:2", "must be an integer, a kind of GPU goes into additional_parameters"),
    ("tasks_per_node", 0, "must be finite and >= 1"),
    ("tasks_per_node", True, "must be an integer"),
    ("nodes", 1e9, "must be an integer"),
    ("nodes", 0, "must be finite and >= 1"),
    ("timeout_min", "1-00:00:00", "must be an integer, in minutes: 1-00:00:00 is 1440"),
    ("timeout_min", 0, "must be finite and >= 1"),
    ("timeout_min", 0.5, "must be an integer"),
    ("timeout_min", 10**9, "must be finite and >= 1 and <= 2635200"),
    ("mem_gb", "32GB", "without a unit"),
    ("max_array_size", 0, "must be finite and >= 1"),
    ("max_array_size", 1.5, "must be an integer"),
    ("array_parallelism", -1, "must be finite and >= 1"),
    ("max_num_timeout", -1, "must be finite and >= 0"),
    ("cpus_per_task", "8", "must be an integer"),
    ("poll_seconds", 0, "must be finite and >= 0.01"),
    ("wait", "no", "must be true or false"),
    ("wait", None, "must be true or false, not null"),
    ("cluster", "slrum", "did you mean slurm"),
    ("partition", "", "must have 1 to"),
    ("partition", 5, "must be a text"),
    ("name", "a\nb", "must have 1 to"),
    ("setup", "module load cuda", "must be a list"),
    ("setup", [1], "must be a text"),
    ("srun_args", {"a": 1}, "must be a list"),
    ("additional_parameters", ["requeue"], "must be a mapping"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_a_wrong_setting_is_one_line(name, value, words):
    with pytest.raises(ConfigError) as e:
        SubmititLauncher(submitit_folder="/nowhere", **{name: value})
    assert str(e.value).startswith(f"hydra.launcher.{name}=")
    assert words in str(e.value)
    assert str(e.value).isprintable()


@pytest.mark.parametrize("value", [0, -1, 1.5, "abc", 10**6, True, [1]])
@pytest.mark.parametrize("name", ["num_jobs", "threads_per_job"])
def test_the_local_launcher_refuses_too(name, value):
    with pytest.raises(ConfigError, match=rf"hydra\.launcher\.{name}="):
        LocalLauncher(**{name: value})


def test_numbers_have_two_bounds_and_conf_passes():
    for _kind, allowed in ALLOWED.values():
        if isinstance(allowed, Number):
            assert allowed.low is not None
            assert allowed.high is not None
    check_settings({"gpus_per_node": None, "nodes": 1, "tasks_per_node": 1, "timeout_min": 1, "mem_gb": 32})
    check_settings({"setup": ["module load cuda"], "additional_parameters": {"mail-user": "me@example.org"}})
    check_settings({"gres": "gpu:a100:1", "comment": 5})  # submitit's to judge


@pytest.mark.parametrize(
    ("message", "knob"),
    [
        ("sbatch: error: Batch job submission failed: Invalid job array specification", "max_array_size"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
         "timeout_min"),
        ("sbatch: error: invalid partition specified: nope", "partition"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "cpus_per_task"),
        ("sbatch: error: Memory specification can not be satisfied", "mem_gb"),
        ("sbatch: error: Invalid generic resource (gres) specification", "gpus_per_node"),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "array_parallelism"),
    ],
)  # fmt: skip
def test_what_sbatch_refuses_names_the_knob(message, knob):
    text = str(refusal(message))
    assert message in text
    assert f"hydra.launcher.{knob}" in text
    assert text.isprintable()


def test_a_refusal_of_another_kind_keeps_its_words():
    assert str(refusal("sbatch: error: the moon is full")).endswith("sbatch refused: sbatch: error: the moon is full")
    assert all(name in ALLOWED for names, _ in REFUSALS.values() for name in names.split(", "))
