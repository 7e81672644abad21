"""What is recorded of the code: with it what git does not know yet."""

import subprocess

import pytest

from fsamlab import __version__
from fsamlab.config.project import STUDY
from fsamlab.rundir import environment


@pytest.fixture
def repository(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    for folder in ("src", "conf", "sweeps", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    return tmp_path


def test_the_difference_of_a_launch_gives_back_the_code_new_files_with_it(repository, tmp_path_factory):
    (repository / "src" / "a.py").write_text("x = 2\n")
    new = {
        "src/new file.py": b"y = '\xc3\xa4'\n",
        "sweeps/mine.yaml": b"a: 1\n",
        "conf/latin.yaml": b"# \xe4\n",
        "my_sam.py": b"z = 3\n",
    }
    for name, content in new.items():
        (repository / name).write_bytes(content)
    (repository / "src" / "x.log").write_text("ignored")
    (repository / "data" / "big.bin").write_text("no code")
    text = environment.uncommitted(repository)
    other = tmp_path_factory.mktemp("other")
    subprocess.run(["git", "clone", "-q", str(repository), str(other / "clone")], check=True)
    patch = text.encode("utf-8", "surrogateescape")
    subprocess.run(["git", "-C", str(other / "clone"), "apply", "-"], input=patch, check=True)
    for name, content in {**new, "src/a.py": b"x = 2\n"}.items():
        assert (other / "clone" / name).read_bytes() == content
    assert "x.log" not in text
    assert "big.bin" not in text


def test_the_version_of_the_package_is_recorded_beside_the_commit(repository, monkeypatch):
    code = environment.code_version(repository)
    assert code["fsamlab"] == __version__
    assert len(code["sha"]) == 40
    (repository / STUDY).write_text("{}")  # a study folder, and the code of a checkout with changes
    monkeypatch.setattr(environment, "HOME", repository)
    (repository / "conf" / "config.yaml").write_text("")
    (repository / "src" / "fsamlab").mkdir()
    assert environment.code_version(repository)["fsamlab"] == f"{__version__}+{code['sha'][:9]}.dirty"


def test_a_new_file_that_is_no_code_by_its_size_is_only_named(repository):
    (repository / "src" / "weights.pt").write_bytes(b"0" * (environment.MAX_UNTRACKED + 1))
    text = environment.uncommitted(repository)
    assert text == "# not tracked by git, and too large to be kept here (1000001 bytes): src/weights.pt\n"


def test_nothing_is_uncommitted_in_a_clean_tree_and_outside_a_repository(repository, tmp_path_factory):
    assert environment.uncommitted(repository) == ""
    assert environment.uncommitted(tmp_path_factory.mktemp("no")) == ""


def test_another_number_of_ranks_may_change_the_last_bits():
    before = {"num_threads": 1, "num_ranks": 2}
    assert environment.decisive_differences(before, {**before, "num_ranks": 4}) == ["num_ranks: 2 -> 4"]
    assert environment.decisive_differences({"num_threads": 1}, before) == []  # the file of an earlier version
