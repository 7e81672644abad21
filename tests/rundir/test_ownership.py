"""Who may write into a run directory: asked again right before each rename, pids only where they mean something."""

import os
import socket
import time

import pytest
import torch
from support.runs import compose_tiny

from fsamlab.rundir import checkpoint, ownership
from fsamlab.rundir.find import current_status
from fsamlab.rundir.ownership import DirectoryBusy, Ownership, Superseded, pid_scope, read_owner
from fsamlab.rundir.reading import is_finished, read_status
from fsamlab.rundir.record import RunRecord
from fsamlab.storage.reading import read_json
from fsamlab.storage.writing import write_json

HERE = pid_scope()
OWNER = {"token": "x", "attempt": 4, "pid": 2**22 + 1, "pid_start": "1", "slurm_job_id": None, **HERE}


def finish(directory):
    """What another attempt does: it takes the directory over, trains to the end and leaves."""
    record = RunRecord(directory, compose_tiny("optimizer.rho=0.5"), [])
    record.cut(0)
    record.append({"step": 100})
    record.write_summary({"final": 2.0})
    record.set_status("finished", step=100)
    checkpoint.finish(directory / "checkpoints", {"w": torch.zeros(1)}, 100, record.ownership.check)
    record.close()


WRITES = {
    "status": lambda r: r.set_status("running", step=80),
    "the last word": lambda r: r.end("failed", "late"),
    "summary": lambda r: r.write_summary({"final": 1.0}),
    "environment": lambda r: r.write_env({"host": "old"}),
    "checkpoint": lambda r: checkpoint.save(
        r.directory / "checkpoints", {"step": 80, "optimizer": {}}, guard=r.ownership.check
    ),
    "rows": lambda r: r.cut(0),
    "owner": lambda r: r.close(),
}


@pytest.mark.parametrize("what", WRITES)
def test_woken_in_an_fsync_after_another_attempt_has_finished(tmp_path, monkeypatch, what):
    directory = tmp_path / "r"
    record = RunRecord(directory, compose_tiny(), [])
    record.append({"step": 80})
    monkeypatch.setattr(ownership, "why_alive", lambda *a: None)  # its heartbeat is stale: it sleeps
    real, slept = os.fsync, []

    def sleeping(fd):
        real(fd)
        if not slept:
            slept.append(fd)
            finish(directory)
            slept.append(contents(directory))

    monkeypatch.setattr(os, "fsync", sleeping)
    try:
        WRITES[what](record)
        outcome = "silent"
    except Superseded:
        outcome = "superseded"
    monkeypatch.setattr(os, "fsync", real)
    assert len(slept) == 2
    assert outcome == ("silent" if what in ("owner", "the last word") else "superseded")
    assert contents(directory) == slept[1]
    if what != "owner":
        with pytest.raises(Superseded):
            record.append({"step": 81})
        record.close()
    assert contents(directory) == slept[1]
    assert is_finished(directory)


def contents(directory):
    files = [p for p in directory.rglob("*") if p.is_file() and p.name != ".claim" and p.suffix != ".tmp"]
    return {str(p.relative_to(directory)): p.read_bytes() for p in files}


def test_a_row_that_an_older_attempt_still_writes_reaches_no_newer_file(tmp_path, monkeypatch):
    record = RunRecord(tmp_path, compose_tiny(), [])
    record.append({"step": 1})
    monkeypatch.setattr(ownership, "why_alive", lambda *a: None)
    newer = RunRecord(tmp_path, compose_tiny(), [])
    newer.cut(0)
    newer.append({"step": 1, "newer": 1.0})
    monkeypatch.setattr(record.ownership, "check", lambda: None)  # it had asked right before it slept
    record.append({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "newer": 1.0}\n'
    newer.close()
    record.close()


def test_the_same_host_name_in_another_pid_namespace_counts_by_its_heartbeat(tmp_path):
    for other in ({"pid_namespace": "pid:[1]"}, {"boot_id": "another boot"}):
        write_json(tmp_path / "owner.json", {**OWNER, **other})
        write_json(tmp_path / "status.json", {"status": "running"})
        with pytest.raises(DirectoryBusy, match="last heartbeat"):
            Ownership(tmp_path)
        assert current_status(tmp_path)["status"] == "running"
    stale = time.time() - ownership.STALE_SECONDS - 1
    os.utime(tmp_path / "owner.json", (stale, stale))
    owner = Ownership(tmp_path)
    assert owner.attempt == 5
    owner.release()


def test_an_owner_of_an_earlier_version_still_counts_by_its_pid(tmp_path):
    old = {k: v for k, v in OWNER.items() if k not in ("boot_id", "pid_namespace")}
    write_json(tmp_path / "owner.json", {**old, "host": socket.gethostname()})
    Ownership(tmp_path).release()  # no such process: free at once
    alive = {"pid": os.getpid(), "pid_start": ownership.process_start(os.getpid())}
    write_json(tmp_path / "owner.json", {**old, **alive})
    with pytest.raises(DirectoryBusy, match="on this machine"):
        Ownership(tmp_path)


def test_a_damaged_owner_is_said_once(tmp_path, caplog):
    """`fsamlab status --watch` reads the file at each look."""
    (tmp_path / "owner.json").write_text("{")
    assert [read_owner(tmp_path)["pid"] for _ in range(3)] == ["?"] * 3
    assert caplog.text.count("only the time of the file tells") == 1


def test_a_heartbeat_from_the_future_keeps_nothing_alive(tmp_path):
    write_json(tmp_path / "owner.json", {**OWNER, "host": "elsewhere"})
    write_json(tmp_path / "status.json", {"status": "running"})
    later = time.time() + 3600
    os.utime(tmp_path / "owner.json", (later, later))
    assert current_status(tmp_path)["status"] == "lost"
    Ownership(tmp_path).release()


def test_a_clock_that_is_off_does_not_end_a_living_run(tmp_path, monkeypatch):
    write_json(tmp_path / "owner.json", {**OWNER, "host": "elsewhere"})
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's; files are dated by the file server's
    with pytest.raises(DirectoryBusy, match="last heartbeat"):
        Ownership(tmp_path)


@pytest.mark.parametrize("content", ["", "garbage", "{}", "[]", '{"pid": "x", "attempt": null, "host": 3}'])
def test_a_damaged_owner_counts_by_its_time(tmp_path, content):
    path = tmp_path / "owner.json"
    path.write_text(content)
    with pytest.raises(DirectoryBusy):
        Ownership(tmp_path)
    stale = time.time() - ownership.STALE_SECONDS - 1
    os.utime(path, (stale, stale))
    owner = Ownership(tmp_path)
    assert read_json(path)["token"] == owner.token
    owner.release()


def test_a_claim_that_another_process_holds_for_ever_is_one_line(tmp_path, monkeypatch):
    from fsamlab.storage.locks import locked

    monkeypatch.setattr("fsamlab.storage.locks.LOCK_SECONDS", 0.05)
    with locked(tmp_path / ".claim"), pytest.raises(DirectoryBusy, match="for long"):
        Ownership(tmp_path)


def test_without_flock_there_is_one_writer_too(tmp_path, monkeypatch):
    import errno
    import fcntl

    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    owner = Ownership(tmp_path)
    with pytest.raises(DirectoryBusy):
        Ownership(tmp_path)
    owner.release()
    assert read_status(tmp_path)["status"] == "queued"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".claim", "owner.json"]
