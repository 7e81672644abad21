"""What the README and the help page show must work."""

import re
import shlex

import pytest
import torch
from helpers import ROOT

from fsamlab.help import page

README = (ROOT / "README.md").read_text()
COMMANDS = sorted(
    {
        line.split("#")[0].split("  ")[0].strip()
        for line in re.findall(r"python launch\.py[^\n`]*", README + page())
        if "..." not in line and "--" not in line
    }
)


def test_the_optimizer_in_five_lines():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    names = {"torch": torch, "model": model, "criterion": torch.nn.CrossEntropyLoss()}
    names.update(x=torch.randn(8, 3), y=torch.randint(0, 2, (8,)))
    exec(block, names)
    assert names["loss"].item() > 0
    assert int(model[1].num_batches_tracked) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(composed, command):
    words = [w for w in shlex.split(command.replace("&& ", "")) if w not in ("python", "launch.py", "-m")]
    composed(*(w.split(",")[0] for w in words))


def test_commands_were_found():
    assert len(COMMANDS) >= 5


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
