import contextlib
import errno
import logging
import os
import resource

import pytest
import torch

from fsamlab.rundir import checkpoint
from fsamlab.terminal import errors


def test_last_and_previous(tmp_path):
    checkpoint.save(tmp_path, {"step": 1, "optimizer": {}})
    checkpoint.save(tmp_path, {"step": 2, "optimizer": {}})
    assert checkpoint.load_latest(tmp_path)["step"] == 2
    assert checkpoint.load(tmp_path / "previous.pt")["step"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_a_torn_last_falls_back_with_a_warning(tmp_path, caplog):
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step, "optimizer": torch.ones(1000)})
    with (tmp_path / "last.pt").open("r+b") as f:
        f.truncate(500)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_latest(tmp_path)["step"] == 1
    assert "last.pt cannot be read" in caplog.text
    assert "previous.pt" in caplog.text


def test_nothing_readable_is_an_error_and_nothing_there_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(RuntimeError, match="force=true"):
        checkpoint.load_latest(tmp_path)


@pytest.mark.parametrize("moment", ["fsync", "link", "replace"])
def test_dying_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch, moment):
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step, "optimizer": {}})
    for nth in (0, 1):
        calls = []
        real = getattr(os, moment)

        def dying(*args, real=real, calls=calls, nth=nth):
            calls.append(args)
            if len(calls) > nth:
                raise KeyboardInterrupt
            return real(*args)

        with monkeypatch.context() as m:
            m.setattr(os, moment, dying)
            with contextlib.suppress(KeyboardInterrupt):
                checkpoint.save(tmp_path, {"step": 3, "optimizer": {}})
        assert checkpoint.load_latest(tmp_path)["step"] in (2, 3)


def test_finish_keeps_the_weights_alone(tmp_path):
    checkpoint.save(tmp_path, {"step": 1, "optimizer": {}})
    checkpoint.save(tmp_path, {"step": 2, "optimizer": {}})
    checkpoint.finish(tmp_path, {"w": torch.zeros(2)}, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt"]
    assert set(checkpoint.load(tmp_path / "last.pt")) == {"model", "step"}


def test_a_torn_file_never_becomes_the_previous_one(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step, "optimizer": {}})
    (tmp_path / "last.pt").write_bytes(b"torn")
    assert checkpoint.load_latest(tmp_path)["step"] == 1
    checkpoint.save(tmp_path, {"step": 3, "optimizer": {}})
    (tmp_path / "last.pt").write_bytes(b"torn again")
    assert checkpoint.load_latest(tmp_path)["step"] == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_the_previous_one_is_kept_too(tmp_path, monkeypatch, code):
    def none(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", none)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, {"step": step, "optimizer": {}})
    assert checkpoint.load(tmp_path / "previous.pt")["step"] == 2
    real = os.replace

    def die(source, target):  # between the two renames, where no last.pt is there
        if str(target).endswith("last.pt"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, {"step": 4, "optimizer": {}})
    assert checkpoint.load_latest(tmp_path)["step"] == 3


def test_a_disk_that_is_full_in_the_middle_of_a_save(tmp_path):
    """The kernel's limit on a file's size stands for the full disk: write() fails after some bytes."""
    checkpoint.save(tmp_path, {"step": 1, "optimizer": {}})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            checkpoint.save(tmp_path, {"step": 2, "optimizer": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert errors.one_line(caught.value) == f"{tmp_path / 'last.pt'}: File too large"
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load_latest(tmp_path)["step"] == 1


def test_a_file_with_other_objects_than_a_run_writes_is_refused_without_advice_to_run_them(tmp_path):
    import pathlib

    torch.save({"model": pathlib.PurePosixPath("x")}, tmp_path / "last.pt")
    with pytest.raises(checkpoint.Damaged) as refused:
        checkpoint.load(tmp_path / "last.pt")
    assert "last.pt cannot be read as a checkpoint" in str(refused.value)
    assert "that could run code" in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert "you have two options" not in str(refused.value)
