"""The wheel: built from an sdist, installed beside no repository, used as a newcomer uses it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.alone import ALONE
from support.runs import ROOT

from fsamlab import __version__
from fsamlab.config.project import code_digest

pytestmark = pytest.mark.long
SHORT = ("train.epochs=1", "seed=0", "tracker=none", "train.progress=false")


def call(*command, cwd, code=0):
    """Run a command in an environment without PYTHONPATH; return its output."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return (sdist, the wheel made of the sdist, the wheel made of the tree)."""
    tree, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("src", "conf", "sweeps"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "launch.py"):
        shutil.copy(ROOT / name, tree)
    (tree / "conf" / "local" / "default.yaml").write_text("tracker: {entity: a-secret-team}\n")
    stale = tree / "build" / "lib" / "fsamlab" / "shipped" / "conf" / "optimizer" / "of_yesterday.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("name: of_yesterday\n")
    build = (sys.executable, "-m", "build", "--no-isolation")
    call(*build, "--outdir", made, tree, cwd=tree)
    call(*build, "--wheel", "--outdir", made / "direct", tree, cwd=tree)
    (sdist,), (wheel,), (direct,) = made.glob("*.tar.gz"), made.glob("*.whl"), (made / "direct").glob("*.whl")
    return sdist, wheel, direct


@pytest.fixture(scope="module")
def bin(built, tmp_path_factory):
    """Return the bin/ of a virtual environment with the wheel; the other packages are those of this environment."""
    venv = tmp_path_factory.mktemp("venv")
    call(sys.executable, "-m", "venv", venv, cwd=venv)
    call(venv / "bin" / "pip", "install", "-q", "--no-deps", "--no-index", built[1], cwd=venv)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join(shared))  # lines of a .pth, so that no editable install is active
    return venv / "bin"


@pytest.fixture(scope="module")
def study(bin, tmp_path_factory):
    place = tmp_path_factory.mktemp("newcomer")
    assert "study is ready: cd study" in call(bin / "fsamlab", "init", "study", cwd=place)
    return place / "study"


def test_the_wheel_of_the_sdist_holds_each_option_once_and_nothing_of_the_builder(built):
    names, direct = [sorted(zipfile.ZipFile(wheel).namelist()) for wheel in built[1:]]
    assert names == direct
    assert f"fsamlab-{__version__}" in built[0].name
    assert f"fsamlab-{__version__}.dist-info/METADATA" in names
    shipped = {name.removeprefix("fsamlab/shipped/") for name in names if name.startswith("fsamlab/shipped/")}
    options = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "conf").rglob("*.yaml")
        if not {"local", "sweeps"} & set(p.relative_to(ROOT).parts)
    }
    sweeps = {f"conf/{p.relative_to(ROOT)}" for p in (ROOT / "sweeps").rglob("*.yaml")}
    assert shipped == {*options, *sweeps, "conf/local/README.md", "launch.py"}
    assert len(sweeps) > 10
    assert "hydra_plugins/fsamlab_plugins/__init__.py" in names
    with tarfile.open(built[0]) as sdist:
        inside = sdist.getnames()
    assert not [name for name in [*names, *inside] if "local/default" in name or "of_yesterday" in name]


def test_a_newcomer_trains_compares_and_measures(bin, study):
    call("git", "init", "-q", cwd=study)
    call("git", "add", ".", cwd=study)
    call("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first", cwd=study)
    (study / "conf" / "optimizer").mkdir()
    (study / "conf" / "optimizer" / "sam_mean.yaml").write_text(
        "defaults: [sam, _self_]\nname: sam_mean\ndescent: my_sam:Mean\nparameters: {share: 0.5}\n"
    )
    page = (ROOT / "docs" / "adding_a_variant.md").read_text(encoding="utf-8")
    (study / "my_sam.py").write_text(re.search(r"```python\n(\"\"\"One choice on each axis.*?)```", page, re.S)[1])
    (study / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\ndefaults: [override /data: synthetic]\ndata: {num_samples: 400}\n"
        "hydra: {sweeper: {params: {optimizer: 'sam_mean,fsam'}}}\n"
    )
    said = call(bin / "python", "launch.py", "-m", "+sweeps=quickstart", "optimizer=sgd,fsam", *SHORT, cwd=study)
    assert "2 of 2 runs finished" in said
    # the folder of launch.py decides, for the jobs too
    said = call(bin / "python", study / "launch.py", "-m", "+sweeps=mine", *SHORT, cwd=study.parent)
    assert "2 of 2 runs finished" in said
    assert (study / "runs" / "mine" / "launches" / "1.json").exists()
    assert not (study.parent / "runs").exists()
    for command, word in (
        (("status", "runs/mine"), "finished"),
        (("collect", "runs/quickstart"), "2 runs in runs/quickstart/results.csv"),
        (("report", "runs/quickstart"), "2 finished"),
        (("check", "+sweeps=mine", *SHORT), "2 finished"),
        (("resubmit", "runs/mine"), "nothing to resubmit"),
        (("measure", "runs/mine", "diagnostics.num_samples=32", "diagnostics.num_batches=2"), "measurements"),
    ):
        assert word in call(bin / "fsamlab", *command, cwd=study), command
    launch = json.loads((study / "runs" / "mine" / "launches" / "1.json").read_text())
    assert len(launch["git"]["sha"]) == 40
    assert launch["git"]["fsamlab"] == __version__
    changes = (study / "runs" / "mine" / "launches" / "1.diff").read_text()
    assert all(name in changes for name in ("my_sam.py", "conf/optimizer/sam_mean.yaml", "sweeps/mine.yaml"))
    (run,) = (study / "runs" / "mine").glob("sam_mean-*")
    environment = json.loads((run / "env.json").read_text())
    assert environment["libraries"]["fsamlab"] == __version__
    assert environment["git"]["source"] == launch["git"]["source"] == code_digest()[:12]


def test_outside_of_a_study_one_line_names_init(bin, study, tmp_path):
    for command in (("check", "+sweeps=quickstart"), ("fetch", "data=digits")):
        said = call(bin / "fsamlab", *command, cwd=tmp_path, code=1)
        assert said.count("\n") == 1
        assert "fsamlab init DIR" in said, command
    shutil.copy(study / "launch.py", tmp_path)
    said = call(bin / "python", "launch.py", cwd=tmp_path, code=1)
    assert said.count("\n") == 1
    assert "fsamlab init DIR" in said
    assert call(bin / "fsamlab", "--version", cwd=tmp_path) == f"fsamlab {__version__}\n"


def test_optimizer_and_measurements_of_the_wheel_need_torch_and_numpy_alone(bin, tmp_path):
    shutil.copy(ALONE, tmp_path)
    said = call(bin / "python", ALONE.name, cwd=tmp_path)
    assert "a step, 2 measurements; other packages: []" in said
