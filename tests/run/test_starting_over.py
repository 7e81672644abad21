"""`force=true`: nothing of the earlier life is taken for the new one, wherever the start is killed."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
from support.runs import compose_tiny

from fsamlab.rundir import checkpoint, ownership
from fsamlab.rundir.reading import is_finished, read_status
from fsamlab.rundir.record import RunRecord
from fsamlab.rundir.rows import read_rows
from fsamlab.storage.writing import write_json

OLD = {
    "summary.json", "measurements/last-step3-x.jsonl", "evaluations/last-step3-x.jsonl",
    "checkpoints/last.pt", "checkpoints/best.pt", "checkpoints/previous.broken",
    "metrics.jsonl", "metrics.jsonl.damaged", "inputs.json",
}  # fmt: skip


@pytest.fixture
def config():
    return compose_tiny()


@pytest.fixture
def finished(tmp_path, config):
    """A finished run with all that such a run may have."""
    directory = tmp_path / "r"
    record = RunRecord(directory, config, [])
    record.append({"step": 3})
    record.write_summary({"final": 1})
    record.set_status("finished")
    record.close()
    checkpoint.finish(directory / "checkpoints", {"w": torch.ones(1)}, 3)
    checkpoint.save(directory / "checkpoints", {"w": torch.ones(1)}, "best.pt")
    (directory / "checkpoints" / "previous.broken").touch()
    (directory / "metrics.jsonl.damaged").touch()
    write_json(directory / "inputs.json", {"data": "of the earlier life"})
    for folder in ("measurements", "evaluations"):
        (directory / folder).mkdir()
        (directory / folder / "last-step3-x.jsonl").write_text(json.dumps({"step": 3, "measured": "1"}) + "\n")
    return directory


def there(directory):
    found = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()} & OLD
    return found - {"metrics.jsonl"} if not read_rows(directory) else found


class Dead(BaseException):
    pass


def die_after(monkeypatch, moment):
    """Let all that changes a directory fail from the `moment`-th call on, as after a kill."""
    calls = []

    def dying(real):
        def call(*args, **keywords):
            calls.append(args)
            if len(calls) > moment:
                raise Dead
            return real(*args, **keywords)

        return call

    for name in ("replace", "unlink", "rmdir", "fsync", "ftruncate"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    return calls


@pytest.mark.parametrize("again", [True, False])
def test_killed_at_every_step_of_a_forced_start(tmp_path, config, finished, monkeypatch, again):
    assert is_finished(finished)
    assert there(finished) == OLD
    monkeypatch.setattr(ownership, "why_alive", lambda *a: None)  # the killed process was this one
    moment, outcomes = 0, set()
    while True:
        directory = tmp_path / f"killed{moment}"
        shutil.copytree(finished, directory)
        with monkeypatch.context() as m:
            die_after(m, moment)
            try:
                RunRecord(directory, dataclasses.replace(config, force=True), []).close()
            except Dead:
                pass
            else:
                break
        decided = not is_finished(directory)
        record = RunRecord(directory, dataclasses.replace(config, force=again), [])
        if again or decided:
            assert not record.was_finished
            assert there(directory) == set(), moment
            assert checkpoint.load_latest(directory / "checkpoints") is None
            assert read_status(directory)["status"] == "running"
            assert not read_status(directory)["starting_over"]
        else:
            assert record.was_finished
            assert there(directory) == OLD, moment
        record.close()
        outcomes.add(decided)
        moment += 1
    assert moment > 15
    assert outcomes == {True, False}


def test_what_goes_on_after_a_forced_start_keeps_what_it_made(config, finished, monkeypatch):
    forced = dataclasses.replace(config, force=True)
    record = RunRecord(finished, forced, [])
    record.append({"step": 1})
    checkpoint.save(finished / "checkpoints", {"optimizer": {}, **record.flush()})
    record.close()  # killed: the status still says running
    for _ in range(2):
        record = RunRecord(finished, forced, [])
        assert not record.starts_over
        assert checkpoint.load_latest(finished / "checkpoints") is not None
        assert read_rows(finished) == [{"step": 1}]
        record.close()


def test_a_start_that_cannot_delete_says_so_and_the_next_one_does_it(config, finished, monkeypatch):
    def closed(self, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.unlink", closed)
    with pytest.raises(PermissionError):
        RunRecord(finished, dataclasses.replace(config, force=True), [])
    monkeypatch.undo()
    assert read_status(finished)["status"] == "failed"
    RunRecord(finished, config, []).close()
    assert there(finished) == set()


def test_a_stale_word_of_an_older_process_does_not_undo_the_end(config, finished):
    status = read_status(finished)
    write_json(finished / "status.json", {**status, "status": "running", "step": 80})
    assert read_status(finished)["status"] == "finished"
    record = RunRecord(finished, config, [])
    assert record.was_finished
    record.close()
    (finished / "summary.json").unlink()
    assert read_status(finished)["status"] == "running"
