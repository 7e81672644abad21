"""Writing on disks that are full."""

import errno
import os

import pytest

from fsamlab.storage.reading import read_json
from fsamlab.storage.writing import write_atomic, write_json, write_last_word
from fsamlab.terminal import errors


def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_line_with_the_path_and_leaves_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / "status.json"
    write_atomic(path, "before")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, "after")
    monkeypatch.undo()
    assert errors.one_line(caught.value) == f"{path}: No space left on device"
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
    assert path.read_text() == "before"


def test_what_the_guard_refuses_is_not_renamed(tmp_path):
    write_atomic(tmp_path / "a", "before")

    def refuse():
        raise RuntimeError("taken over")

    with pytest.raises(RuntimeError, match="taken over"):
        write_atomic(tmp_path / "a", "after", refuse)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "before")]


@pytest.mark.parametrize("word", ["x", "x" * 500])
def test_the_last_word_is_written_on_a_full_disk(tmp_path, monkeypatch, word):
    write_json(tmp_path / "status.json", {"status": "running", "more": "y" * 100})
    monkeypatch.setattr(os, "replace", full)
    write_last_word(tmp_path / "status.json", {"status": "failed", "exception": word})
    monkeypatch.undo()
    assert read_json(tmp_path / "status.json") == {"status": "failed", "exception": word}
