"""One directory decides for code, conf/, runs and record: a mixture is refused in one line."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest
from support.runs import ROOT, TINY

from fsamlab.config import ConfigError, project


@pytest.fixture
def checkout(tmp_path):
    """Another checkout of the same code."""
    there = tmp_path / "B"
    for name in ("conf", "src"):
        shutil.copytree(ROOT / name, there / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "local"))
    shutil.copy(ROOT / "launch.py", there)
    return there


def ask(script, *words, cwd, source):
    """Run a script with the package of `source`."""
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *script, *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300)


def refused(done, *words):
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: fsamlab=")
    for word in words:
        assert word in done.stderr
    return True


CFG = ("--cfg", "job")
COMMAND = ("-m", "fsamlab.command.main")


def test_a_second_checkout_is_not_run_with_the_code_of_the_first(checkout):
    for cwd in (checkout, ROOT):  # by its file, wherever one stands
        done = ask([checkout / "launch.py"], *TINY, cwd=cwd, source=ROOT / "src")
        assert refused(done, "launch.py belongs to", str(checkout), f"pip install -e {checkout}")
    assert not (checkout / "runs").exists()
    done = ask(COMMAND, "check", "seed=0,1", cwd=checkout, source=ROOT / "src")
    assert refused(done, "this directory belongs to")
    assert ask(["launch.py"], *CFG, cwd=checkout, source=checkout / "src").returncode == 0


def test_conf_runs_and_record_are_those_of_the_code(checkout):
    code = (
        "import json, sys; from fsamlab.config.project import PROJECT_ROOT\n"
        "from fsamlab.config.identity import runs_root\n"
        "print(json.dumps([str(PROJECT_ROOT), str(runs_root('runs'))]))"
    )
    done = ask(["-c", code], cwd=ROOT, source=checkout / "src")
    assert done.stdout.strip() == f'["{checkout}", "{checkout}/runs"]'
    (checkout / "conf" / "optimizer" / "of_b.yaml").write_text("defaults: [sgd, _self_]\nname: of_b\n")
    done = ask(["launch.py"], *CFG, "optimizer=of_b", cwd=checkout, source=checkout / "src")
    assert "name: of_b" in done.stdout, done.stderr


@pytest.mark.long
def test_launch_through_a_symbolic_link_and_from_elsewhere(tmp_path):
    link = tmp_path / "train.py"
    link.symlink_to(ROOT / "launch.py")
    for script in (link, ROOT / "launch.py"):
        done = ask([script], *CFG, "optimizer=sgd", cwd=tmp_path, source=ROOT / "src")
        assert done.returncode == 0, done.stderr
        assert "name: sgd" in done.stdout
    done = ask(COMMAND, "check", "seed=0,1", f"runs_dir={tmp_path / 'runs'}", cwd=tmp_path, source=ROOT / "src")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_copy_of_the_package_is_of_use_inside_its_project_alone(checkout, tmp_path):
    """A copy of src/ alone, as PYTHONPATH may name one; the options of fsamlab are not in the copy."""
    copy = tmp_path / "site-packages"
    shutil.copytree(checkout / "src", copy)
    for cwd in (checkout, tmp_path):  # the place of launch.py decides
        done = ask([checkout / "launch.py"], *CFG, "optimizer=sgd", cwd=cwd, source=copy)
        assert done.returncode == 0, done.stderr
        assert "name: sgd" in done.stdout
    assert refused(ask(COMMAND, "check", "seed=0,1", cwd=tmp_path, source=copy), "is a copy without conf/")
    assert ask(COMMAND, "status", "--help", cwd=tmp_path, source=copy).returncode == 0
    with (checkout / "src" / "fsamlab" / "schedule.py").open("a", encoding="utf-8") as f:
        f.write("# edited since\n")
    assert refused(ask(["launch.py"], *CFG, cwd=checkout, source=copy), "differs from", "pip install -e")
    assert not (copy.parent / "runs").exists()


def test_project_of(tmp_path, monkeypatch):
    assert project.project_of(ROOT / "src" / "fsamlab") == ROOT
    assert project.project_of(tmp_path) is None
    project.check_project()
    project.check_project(tmp_path)
    monkeypatch.setattr(project, "PROJECT_ROOT", tmp_path)
    with pytest.raises(ConfigError, match="lies in no study folder; `fsamlab init DIR` makes one"):
        project.check_project()
    monkeypatch.setattr(project, "CONF", tmp_path / "conf")
    with pytest.raises(ConfigError, match="a copy without conf/"):
        project.check_project()


def test_the_digest_of_the_code_is_that_of_all_files_in_src(monkeypatch):
    content = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        content.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    assert project.code_digest() == content.hexdigest()
    monkeypatch.setattr(project, "is_checkout", lambda directory: False)  # as in an installed wheel
    assert project.code_digest() == content.hexdigest()
