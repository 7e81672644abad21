"""What a run imports and does before its first step, as counts: times would depend on the machine."""

import os
import subprocess
import sys

import pytest

# scikit-learn takes a second, timm two, pandas and wandb half a second
SLOW = ("sklearn", "scipy", "timm", "pandas", "wandb", "matplotlib", "submitit")
ONE_STEP = f"""
import sys
from pathlib import Path
from hydra import compose
from fsamlab.config import typed
from fsamlab.config.compose import composing
with composing():
    config = typed(compose("config", overrides=["train.max_steps=1", "train.progress=false"]))
assert "torch" not in sys.modules
from fsamlab.run import run
run(config, Path(sys.argv[1]))
print("imported:", [name for name in {SLOW} if name in sys.modules])
"""


@pytest.mark.long
def test_a_run_with_the_defaults_and_without_a_key_imports_no_slow_library(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name == "NETRC" or name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    command = [sys.executable, "-c", ONE_STEP, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []"
