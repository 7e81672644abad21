"""A study folder: what `fsamlab init` lays, and the options, sweeps and names of the user's own."""

import json
import os
import subprocess
import sys

import pytest
from support.runs import ROOT

from fsamlab import __version__
from fsamlab.command.init import init
from fsamlab.command.main import main
from fsamlab.config import ConfigError, project, search
from fsamlab.config.compose import check_words


@pytest.fixture
def study(tmp_path):
    init(tmp_path / "study")
    return tmp_path / "study"


def test_the_folder_holds_what_belongs_to_the_user_and_no_options_of_fsamlab(study, capsys):
    files = {str(p.relative_to(study)) for p in study.rglob("*") if p.is_file() and p.parent.name != "sweeps"}
    assert files == {".fsamlab-study", ".gitignore", "README.md", "launch.py", "conf/local/README.md"}
    assert (study / "conf" / "sweeps" / "example.yaml").samefile(study / "sweeps" / "example.yaml")
    assert (study / "launch.py").read_bytes() == (ROOT / "launch.py").read_bytes()
    assert project.project_of(study / "conf" / "local") == study
    assert main(["init", str(study)]) == 1
    assert capsys.readouterr().err == (
        f"error: DIR={study}: is not empty; name a new directory, for example {study / 'study'}\n"
    )
    assert main(["init", str(study / "README.md")]) == 1
    assert "is a file" in capsys.readouterr().err
    assert main(["init", ""]) == 1
    assert capsys.readouterr().err == "error: DIR='': must name a new directory, or . for this directory\n"


def test_a_new_repository_becomes_a_study(tmp_path, capsys):
    (tmp_path / ".git").mkdir()
    assert main(["init", str(tmp_path)]) == 0
    assert "launch.py -m +sweeps=quickstart" in capsys.readouterr().out


def test_own_options_and_sweeps_are_found_and_results_stay_in_the_folder(study):
    (study / "conf" / "optimizer").mkdir()
    (study / "conf" / "optimizer" / "my_sam.yaml").write_text("defaults: [sam, _self_]\nname: my_sam\n")
    (study / "conf" / "local" / "default.yaml").write_text("# @package _global_\ntracker: {project: mine}\n")
    (study / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\nhydra: {sweeper: {params: {optimizer: 'my_sam,fsam'}}}\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "fsamlab.command.main", "check", "+sweeps=mine"]
    done = subprocess.run(command, cwd=study, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 runs below runs/mine/ are valid" in done.stdout
    command = [sys.executable, str(study / "launch.py"), "--cfg", "job", "optimizer=my_sam"]
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "name: my_sam" in done.stdout
    assert "project: mine" in done.stdout


def test_a_file_with_the_name_of_an_option_of_fsamlab_is_refused(study, monkeypatch, tmp_path):
    monkeypatch.setattr(search, "OWN", study / "conf")
    check_words([])
    for name in (
        "conf/optimizer/fsam.yaml",
        "sweeps/quickstart.yaml",
        "conf/config.yaml",
        "conf/hydra/env/default.yaml",
    ):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text("rho: 1\n")
        with pytest.raises(ConfigError, match=f"{(study / name).stem} already, in .*; give the file another name"):
            check_words([])
        (study / name).unlink()
    (study / "conf" / "local" / "slurm.yaml").write_text("partition: gpu\n")
    check_words([])
    further = tmp_path / "shared" / "optimizer"
    further.mkdir(parents=True)
    word = f"hydra.searchpath=[file://{tmp_path / 'shared'},pkg://hydra.no_such_package]"
    (further / "ours.yaml").write_text("name: ours\n")
    check_words([word])
    (further / "sam.yaml").write_text("name: sam\n")
    with pytest.raises(ConfigError, match=r"shared/optimizer/sam.yaml: optimizer has an option sam already"):
        check_words([word])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"layout": 2}', "has layout 2, and this fsamlab knows layouts up to 1: `pip install -U fsamlab`"),
        ('{"made_by": "x"}', 'is damaged; it must hold {"layout": 1}'),
        ("nothing", "is damaged"),
    ],
)
def test_a_folder_of_another_version_is_used_or_refused_in_one_line(study, monkeypatch, content, message):
    monkeypatch.setattr(project, "PROJECT_ROOT", study)
    assert json.loads((study / project.STUDY).read_text())["made_by"] == f"fsamlab {__version__}"
    project.check_project(study)
    (study / project.STUDY).write_text(content)
    with pytest.raises(ConfigError) as raised:
        project.check_project(study)
    assert message in str(raised.value)


def test_two_studies_are_not_mixed(study, monkeypatch, tmp_path):
    init(tmp_path / "other")
    monkeypatch.setattr(project, "PROJECT_ROOT", study)
    with pytest.raises(ConfigError, match=r"launch.py belongs to it, but .*study is in use"):
        project.check_project(tmp_path / "other", "launch.py")


def test_the_version_is_shown(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"fsamlab {__version__}\n"
