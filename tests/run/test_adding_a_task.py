"""docs/adding_a_task.md: its code is a module, and its commands train."""

import math
import re
import shlex
import sys

import pytest
import torch
from support.runs import ROOT, TINY

from fsamlab.config import typed
from fsamlab.diagnostics import Diagnostics, Objective, measuring
from fsamlab.run import run

PAGE = (ROOT / "docs" / "adding_a_task.md").read_text(encoding="utf-8")
CODE = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S))
COMMANDS = re.findall(r"^python launch\.py ([^#\n]*?) *(?:#.*)?$", PAGE, re.M)
SMALL = ("tracker=none", "train.progress=false", "train.epochs=1", "train.num_threads=1", "diagnostics=light")


@pytest.fixture
def my_tasks(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_tasks", None)


def composed_of(command):
    """Return the first run of a command, small."""
    from hydra import compose, initialize_config_dir

    from fsamlab.config.compose import register

    words = [word if "[" in word else word.split(",")[0] for word in shlex.split(command) if word != "-m"]
    small = ("model.width=8",) if "experiment=diabetes" in words else TINY
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides=[*small, *words, *SMALL]))


def test_the_page_has_the_commands_and_code_that_are_tested_here():
    assert len(COMMANDS) == 8
    assert all(name in CODE for name in ("def focal", "def absolute_error", "class LogCosh"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_trains(tmp_path, my_tasks, command):
    config = composed_of(command)
    summary = run(config, tmp_path / "run")
    headline = summary.get("task/headline", "acc1")
    assert headline == (config.task.headline or {"my_tasks:LogCosh": "rmse"}.get(config.task.import_path, headline))
    assert math.isfinite(summary[f"final/test/{headline}"])
    assert math.isfinite(summary["final/sharpness/one_step"])


def test_the_code_of_the_page_is_right(my_tasks):
    import my_tasks as mine

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, generator=generator).double(), torch.arange(6) % 4
    p = logits.softmax(1)[torch.arange(6), labels]
    torch.testing.assert_close(mine.focal(logits, labels, 1.5), -((1 - p) ** 1.5) * p.log())
    model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)
    task = mine.LogCosh(0.5)
    with measuring(model):
        found = Objective(model, [(x, y)], task).losses()
    torch.testing.assert_close(
        found, ((model(x) - y).detach().double() / 0.5).cosh().log().mean(1), rtol=1e-5, atol=1e-6
    )
    diagnostics = Diagnostics.of_loop((x, y), 2, loss=task, quantities=["one_step"], num_samples=4)
    assert diagnostics.loss is task
