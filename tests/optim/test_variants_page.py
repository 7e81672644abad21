"""docs/variants.md says what conf/optimizer/ holds."""

import re
import shlex
import subprocess
import sys

import pytest
from support.runs import ROOT, VARIANTS, compose_tiny

PAGE = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
ROW = {name: row for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}


def test_every_variant_has_a_row():
    assert sorted(ROW) == VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_defaults_and_source_are_those_of_the_file(name):
    optimizer = compose_tiny(f"optimizer={name}", "model.width=4").optimizer
    for key, value in re.findall(r"(\w+) ([\d.]+|decoupled)(?:,|$)", ROW[name][4]):
        assert str(getattr(optimizer, key)).removesuffix(".0") == value, key
    head = (ROOT / "conf" / "optimizer" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    for paper in re.findall(r"\d{4}\.\d{5}", head):
        assert paper in PAGE
        assert paper in ROW[name][5] or not re.search(r"\d{4}\.\d{5}", ROW[name][5]) or name == "sam_full_ema"


@pytest.mark.parametrize("name", [name for name in VARIANTS if re.fullmatch(r"[\d.]+", ROW[name][2])])
def test_passes_a_step(name):
    """Counted: closures that run in as many steps as the variant has between two perturbations."""
    import torch
    from torch import nn

    from fsamlab.optim import build_optimizer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    steps, passes = 10, []
    optimizer = build_optimizer(compose_tiny(f"optimizer={name}").optimizer, model, seed=0, total_steps=steps)

    def closure():
        passes.append(1)
        optimizer.zero_grad()
        loss = model(torch.randn(16, 6)).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure, closure, closure)
    assert len(passes) / steps == float(ROW[name][2])


@pytest.mark.long
def test_the_commands_of_the_page_train(tmp_path):
    commands = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 1
    for command in commands:
        words = shlex.split(command)
        assert words[:2] == ["python", "launch.py"]
        done = subprocess.run(
            [sys.executable, *words[1:], f"runs_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/*/summary.json"))) == len(commands)
