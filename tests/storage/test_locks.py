"""Locks, also on file systems that lack flock."""

import errno
import fcntl
import os
import threading
import time

import pytest

from fsamlab.storage.locks import locked


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
