import json
import multiprocessing
import os
import re
import time

import pytest
from support.processes import hold

from fsamlab.config import (
    Config,
    DataConfig,
    DiagnosticsConfig,
    ModelConfig,
    OptimizerConfig,
    TrackerConfig,
    TrainConfig,
)
from fsamlab.rundir import ownership
from fsamlab.rundir.find import current_status
from fsamlab.rundir.ownership import DirectoryBusy, Ownership, Superseded
from fsamlab.rundir.reading import is_finished, read_status
from fsamlab.rundir.record import RunRecord
from fsamlab.rundir.rows import read_rows
from fsamlab.storage.reading import read_json
from fsamlab.storage.writing import check_writable, write_json


@pytest.fixture
def config():
    return Config(
        optimizer=OptimizerConfig(name="sgd"),
        model=ModelConfig(name="small_cnn"),
        data=DataConfig(name="digits"),
        train=TrainConfig(),
        diagnostics=DiagnosticsConfig(name="off"),
        tracker=TrackerConfig(name="none"),
    )


def test_rows_are_cut_to_the_checkpoint(tmp_path, config):
    record = RunRecord(tmp_path, config, ["a=1"])
    record.append({"step": 1})
    offset = record.flush()["metrics_bytes"]
    record.append({"step": 2})
    record.close()
    record = RunRecord(tmp_path, config, [])
    record.cut(offset)
    record.append({"step": 2, "again": 1.0})
    record.close()
    assert read_rows(tmp_path) == [{"step": 1}, {"step": 2, "again": 1.0}]
    assert read_status(tmp_path)["attempts"] == 2


def test_a_metrics_file_shorter_than_the_checkpoint_says_is_refused(tmp_path, config):
    record = RunRecord(tmp_path, config, [])
    with pytest.raises(RuntimeError, match="force=true"):
        record.cut(10)
    record.close()


def test_half_a_line_is_no_row(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert read_rows(tmp_path) == [{"step": 1}]


def test_status_of_a_run_that_never_started_is_queued(tmp_path):
    assert read_status(tmp_path / "nothing") == {"status": "queued"}
    assert not is_finished(tmp_path / "nothing")


def _other_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, leave))
    process.start()
    assert ready.wait(60)
    return process, leave


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    process, leave = _other_process(tmp_path)
    with pytest.raises(DirectoryBusy, match=str(process.pid)):
        Ownership(tmp_path)
    leave.set()
    process.join()
    Ownership(tmp_path).release()  # released: free at once


@pytest.mark.long
def test_a_killed_writer_is_superseded_at_once_and_shown_as_lost(tmp_path, config):
    process, _ = _other_process(tmp_path)
    write_json(tmp_path / "status.json", {"status": "running"})
    assert current_status(tmp_path)["status"] == "running"
    process.kill()
    process.join()
    assert current_status(tmp_path)["status"] == "lost"
    owner = Ownership(tmp_path)
    assert owner.attempt == 2
    owner.release()


def test_another_hosts_writer_counts_by_its_heartbeat(tmp_path, monkeypatch):
    write_json(
        tmp_path / "owner.json",
        {"token": "x", "attempt": 4, "host": "elsewhere", "pid": 1, "pid_start": "1", "slurm_job_id": None},
    )
    with pytest.raises(DirectoryBusy, match="elsewhere"):
        Ownership(tmp_path)
    stale = time.time() - ownership.STALE_SECONDS - 1
    os.utime(tmp_path / "owner.json", (stale, stale))
    owner = Ownership(tmp_path)
    assert owner.attempt == 5
    owner.release()


def test_a_restart_of_the_same_slurm_job_supersedes(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    write_json(
        tmp_path / "owner.json",
        {"token": "x", "attempt": 1, "host": "elsewhere", "pid": 1, "pid_start": "1", "slurm_job_id": "77"},
    )
    Ownership(tmp_path).release()


@pytest.mark.long
def test_two_launches_in_one_slurm_job_do_not_steal_from_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    process, leave = _other_process(tmp_path)
    with pytest.raises(DirectoryBusy):
        Ownership(tmp_path)
    leave.set()
    process.join()


def test_the_older_attempt_stops_writing(tmp_path, config):
    record = RunRecord(tmp_path, config, [])
    record.append({"step": 1})
    write_json(tmp_path / "owner.json", {**read_json(tmp_path / "owner.json"), "token": "newer"})
    with pytest.raises(Superseded):
        record.append({"step": 2})
    record.close()
    assert read_json(tmp_path / "owner.json")["token"] == "newer"
    assert read_rows(tmp_path) == [{"step": 1}]


def test_the_heartbeat_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.05)
    owner = Ownership(tmp_path)
    os.utime(tmp_path / "owner.json", (0, 0))
    end = time.time() + 10
    while (tmp_path / "owner.json").stat().st_mtime < 1 and time.time() < end:
        time.sleep(0.02)
    assert (tmp_path / "owner.json").stat().st_mtime > 1
    owner.release()


def test_config_and_overrides_are_plain_yaml(tmp_path, config):
    import yaml

    RunRecord(tmp_path, config, ["optimizer.rho=0.1"]).close()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["optimizer"]["name"] == "sgd"
    assert yaml.safe_load((tmp_path / "overrides.yaml").read_text()) == ["optimizer.rho=0.1"]
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "running"


def test_a_silent_writer_elsewhere_is_lost_in_every_time_zone(tmp_path, monkeypatch):
    owner = {"token": "x", "attempt": 1, "host": "elsewhere", "pid": 1, "pid_start": "1", "slurm_job_id": None}
    write_json(tmp_path / "status.json", {"status": "running"})
    write_json(tmp_path / "owner.json", owner)
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert current_status(tmp_path)["status"] == "running"
    stale = time.time() - ownership.STALE_SECONDS - 1
    os.utime(tmp_path / "owner.json", (stale, stale))
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert current_status(tmp_path)["status"] == "lost"
    monkeypatch.undo()
    time.tzset()


def test_a_file_that_is_there_is_written_in_place(tmp_path, monkeypatch):
    file, closed = tmp_path / "there.csv", tmp_path / "new.csv"
    file.touch()
    monkeypatch.setattr("os.access", lambda path, mode: path == file)  # a directory closed to this user
    check_writable(file)
    with pytest.raises(PermissionError, match=re.escape(str(closed))):
        check_writable(closed)
    monkeypatch.setattr("os.access", lambda path, mode: path != file)
    with pytest.raises(PermissionError):
        check_writable(file)
