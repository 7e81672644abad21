"""What docs/wandb.md shows must work."""

import re

import pytest
import yaml
from support.runs import ROOT

TEXT = (ROOT / "docs" / "wandb.md").read_text()


@pytest.mark.long
def test_the_sweeps_words_compose(composed):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    sweep = yaml.safe_load(text)
    chosen = {
        key: {"value": what["value"] if "value" in what else what["values"][0] if "values" in what else what["max"]}
        for key, what in sweep["parameters"].items()
    }
    words = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    config = composed(*words)
    assert sweep["command"] == ["${env}", "python", "launch.py", "${args_no_hyphens}"]
    assert (config.optimizer.rho, config.optimizer.sigma, config.tracker.mode) == (1.0, 0.5, "online")


def test_the_commands_exist():
    from fsamlab.command.options import parser

    words = {"NAME": "x", "PROJECT": "p"}
    commands = re.findall(r"^fsamlab ([^\[#\n]+)", TEXT, re.M)
    assert len(commands) == 4
    for command in commands:
        parser().parse_args([words.get(word, word) for word in command.split()])
