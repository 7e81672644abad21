import contextlib
import logging
import os

import pytest
import torch

from fsamlab import checkpoint


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
