"""Writing and locking on disks that are full, and on file systems that lack flock."""

import errno
import fcntl
import os
import threading
import time

import pytest

from fsamlab.storage.locks import locked
from fsamlab.storage.reading import Damaged, read_json
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


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_lock_without_flock_lets_one_in_at_a_time(tmp_path, monkeypatch, code):
    def none(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    inside, most = [], []

    def enter():
        for _ in range(5):
            with locked(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == [1] * 20
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_a_killed_holder_of_a_lock_without_flock_is_passed(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSYS, "not there")))
    held = tmp_path / "lock.held"
    held.write_text("a killed process")
    os.utime(held, (0, 0))
    with locked(tmp_path / "lock", seconds=5):
        assert held.read_text() != "a killed process"
    assert not held.exists()


def test_a_lock_that_is_held_for_ever_is_no_hang(tmp_path):
    entered = locked(tmp_path / "lock")
    with entered, pytest.raises(TimeoutError, match="another process holds this lock"), locked(tmp_path / "lock", 0.05):
        pass


def test_a_file_in_the_place_of_a_directory_is_named_itself(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(Damaged, match=r"/run is a file, and should be a directory; move it away$"):
        read_json(tmp_path / "run" / "status.json", mend="remove it")
