"""W&B is a mirror: whatever happens to it, training ends well, in time, and the local rows are whole."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.runs import ROOT
from support.wandb_standin import StandIn

from fsamlab.config import TrackerConfig
from fsamlab.tracking import NullTracker, build_tracker, wandb_tracker
from fsamlab.tracking.wandb_session import wandb_id
from fsamlab.tracking.wandb_tracker import read_rows

SCRIPT = ROOT / "tests" / "support" / "mirrored_loop.py"
STEPS = 10
INIT_TIMEOUT = FINISH_TIMEOUT = 3.0
BUSY_SECONDS = 25.0  # what a busy machine may add; without a bound, wandb itself waits for 90 s or more
ALL_STEPS = list(range(1, STEPS + 1))


class Loop:
    """The loop of mirrored_loop.py in a child process; `end` checks what must hold in every case."""

    def __init__(self, directory, env, *specs):
        defaults = {"run_id": "run-1", "start": 0, "steps": STEPS, "exit_code": 0, "pause_at": [], "replay": True}
        places = {"directory": str(directory), "wandb_directory": str(directory)}
        tracker = {"mode": "auto", "init_timeout": INIT_TIMEOUT, "finish_timeout": FINISH_TIMEOUT}
        self.directory = directory
        self.cores = []
        self.specs = [
            {**defaults, **places, **spec, "tracker": {**tracker, **spec.get("tracker", {})}} for spec in specs or ({},)
        ]
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(self.specs)],
            env={**os.environ, **env},
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_pause(self):
        assert self.process.stdout.readline() == "PAUSED\n", self.process.communicate()[1]

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wandb_core(self):
        """Return the pid of the loop's wandb-core process; waits for one that is being restarted."""
        for _ in range(100):
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    parent = int(stat.read_text().rpartition(")")[2].split()[1])
                    command = (stat.parent / "cmdline").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if parent == self.process.pid and "wandb-core" in command:
                    self.cores.append(int(stat.parent.name))
                    return self.cores[-1]
            time.sleep(0.1)
        raise AssertionError("no wandb-core below the loop")

    def end(self):
        began = time.monotonic()
        stdout, self.log = self.process.communicate("\n" * 10, timeout=90)
        self.seconds_to_exit = time.monotonic() - began
        assert self.process.returncode == 0, self.log
        assert "Traceback" not in self.log
        self.results = json.loads(stdout.splitlines()[-1])
        for spec, result in zip(self.specs, self.results):
            rows = [row["step"] for row in read_rows(self.directory / f"{spec['run_id']}.jsonl")]
            assert rows == list(range(1, spec["steps"] + 1))
            assert result["seconds"]["log"] < 2  # seconds: it never waits for the server
            assert result["seconds"]["build"] < INIT_TIMEOUT + BUSY_SECONDS
            assert result["seconds"]["finish"] < FINISH_TIMEOUT + BUSY_SECONDS
        self.result = self.results[-1]
        self.warnings = re.findall("^WARNING .*", self.log, flags=re.M)
        return self


@pytest.fixture
def loop(tmp_path):
    """Run loops; ends what a failed test left behind."""
    loops = []

    def start(env=None, *specs):
        loops.append(Loop(tmp_path, env or {}, *specs))
        return loops[-1]

    yield start
    for each in loops:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()
        for pid in each.cores:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def server():
    with StandIn() as server:
        yield server
        assert not server.unknown


def steps_of(run):
    assert [row["_step"] for row in run.history] == [row["global_step"] for row in run.history]
    return [row["global_step"] for row in run.history]


def test_online_run_has_rows_config_summary_and_place(loop, server):
    done = loop(server.env(), {"exit_code": 1, "tracker": {"tags": ["a", "b"]}}).end()
    assert done.result["started"] == 1
    run = server.run("run-1")
    assert steps_of(run) == ALL_STEPS
    assert [(row["train/loss"], row["val/acc1"]) for row in run.history] == [(1 / k, k / 100) for k in ALL_STEPS]
    assert "step" not in run.history[0]
    assert run.plain_config == {"optimizer": {"name": "fsam", "rho": 0.2}, "seed": 3}
    place = {k: run.meta[k] for k in ("groupName", "jobType", "displayName", "tags")}
    assert place == {"groupName": "study", "jobType": "fsam", "displayName": "fsam-s0", "tags": ["a", "b"]}
    assert run.project == "fsamlab"
    assert (run.summary["best/val/acc1"], run.summary["cost"]) == (0.5, 7)
    assert run.exit_code == 1
    assert done.result["url"] == f"{server.url}/standin/fsamlab/runs/run-1"
    assert done.warnings == []


@pytest.mark.long
def test_a_resumed_run_is_one_run_with_each_step_once(loop, server, tmp_path):
    loop(server.env(), {"steps": 6, "exit_code": 1}).end()
    lines = (tmp_path / "run-1.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run-1.jsonl").write_text("".join(lines[:4]))  # the last checkpoint is of step 4
    second = loop(server.env(), {"start": 4}).end()
    assert second.warnings == []  # wandb warns of a step that it has already
    assert len(server.runs) == 1
    assert steps_of(server.run("run-1")) == ALL_STEPS
    assert server.run("run-1").exit_code == 0


@pytest.mark.long
def test_rows_that_did_not_get_through_are_sent_after_a_resume(loop, server):
    first = loop(server.env(), {"steps": 6, "pause_at": [3], "tracker": {"finish_timeout": 1}})
    first.wait_for_pause()
    server.fail(500)
    first.end()
    assert len(first.warnings) == 1
    assert len(server.run("run-1").history) < 6
    server.fail(None)
    loop(server.env(), {"start": 6}).end()
    assert steps_of(server.run("run-1")) == ALL_STEPS


def test_runs_of_one_process_do_not_mix(loop, server):
    loop(server.env(), {"run_id": "first"}, {"run_id": "second", "steps": 4, "exit_code": 1}).end()
    assert steps_of(server.run("first")) == ALL_STEPS
    assert steps_of(server.run("second")) == [1, 2, 3, 4]
    assert (server.run("first").exit_code, server.run("second").exit_code) == (0, 1)


def test_a_run_id_with_characters_that_wandb_refuses(loop, server):
    loop(server.env(), {"run_id": "rho=0.1,seed:2"}).end()
    assert steps_of(server.run("rho=0.1-seed-2-ff28ce6c")) == ALL_STEPS


def test_two_ids_stay_two():
    ids = ["a b", "a-b", "a_b", "a:b", "a/b", "a;b", "a.b", "é", "e", "a  b", "quick-fsam-s0-12345678"]
    assert len({wandb_id(i) for i in ids}) == len(ids)
    assert all(wandb_id(i) == i for i in ("a-b", "a_b", "quick-fsam-s0-12345678"))
    assert all(not set(wandb_id(i)) & set(":;,#?/'\\% ") for i in ids)


@pytest.mark.parametrize("fault", [OverflowError("timestamp too large"), RuntimeError("can't start new thread")])
def test_whatever_waiting_for_wandb_raises_is_one_warning(monkeypatch, caplog, fault):
    def broken(future, seconds, what):
        raise fault

    class Session:
        url, server_step, problems = None, -1, ()

        def __init__(self, cfg, mode):
            pass

        def log(self, row, step):
            pass

        def finish(self, summary, exit_code):
            pass

    monkeypatch.setattr(wandb_tracker, "WandbSession", Session)
    monkeypatch.setattr(wandb_tracker, "kill_service", lambda: None)
    tracker = wandb_tracker.WandbTracker(TrackerConfig(name="wandb"), "offline", 0, None)
    tracker.start()
    monkeypatch.setattr(wandb_tracker, "wait", broken)
    tracker.log({"a": 1.0}, 1)
    tracker.finish({"a": 1.0})
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    assert f"W&B failed in finish: {type(fault).__name__}" in caplog.text


def test_a_wandb_that_calls_exit_ends_no_run(monkeypatch, caplog):
    class Session:
        url, server_step, problems = None, -1, ()

        def __init__(self, cfg, mode):
            raise SystemExit(3)

    monkeypatch.setattr(wandb_tracker, "WandbSession", Session)
    monkeypatch.setattr(wandb_tracker, "kill_service", lambda: None)
    tracker = wandb_tracker.WandbTracker(TrackerConfig(name="wandb"), "offline", 0, None)
    tracker.start()
    tracker.finish({})
    assert "W&B failed in init: SystemExit" in caplog.text


@pytest.mark.parametrize("broken", ["fsamlab.tracking.wandb_environment.read_environment", "threading.Thread.start"])
@pytest.mark.parametrize("mode", ["auto", "online"])
def test_a_machine_on_which_nothing_works_trains_all_the_same(monkeypatch, caplog, tmp_path, broken, mode):
    def no(*args, **kwargs):
        raise RuntimeError("no\nway")

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(broken, no)
    identity = {"run_id": "r", "name": "n", "group": "g", "job_type": "j", "config": {}}
    tracker = build_tracker(TrackerConfig(name="wandb", mode=mode), **identity, directory=tmp_path, start_step=0)
    tracker.log({"a": 1.0}, 1)
    tracker.finish({})
    assert isinstance(tracker, NullTracker)
    if mode == "online":
        assert "W&B is not used (no way)" in caplog.text


def test_a_home_that_does_not_exist_ends_no_run(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_CONFIG_DIR", "~no_such_user_9/wandb")
    identity = {"run_id": "r", "name": "n", "group": "g", "job_type": "j", "config": {}}
    cfg = TrackerConfig(name="wandb")
    assert isinstance(build_tracker(cfg, **identity, directory=tmp_path, start_step=0), NullTracker)


def test_auto_without_a_key_does_not_start_wandb(loop):
    done = loop().end()
    assert done.result["started"] == 0
    assert done.result["url"] is None
    assert "INFO W&B is not used (no API key for https://" in done.log
    assert done.warnings == []


def test_online_without_a_key_is_a_warning_and_no_prompt(loop):
    done = loop({}, {"tracker": {"mode": "online"}}).end()
    assert len(done.warnings) == 1
    assert "no API key" in done.warnings[0]
    assert done.result["started"] == 0


def break_server(server, fault):
    if fault == "closed":
        server.stop()
    elif fault == "hang":
        server.hang = True
    else:
        server.fail(fault)


@pytest.mark.parametrize("fault", ["closed", "hang", 500])
def test_auto_with_a_server_that_does_not_answer_is_one_line(loop, fault):
    with StandIn() as server:
        break_server(server, fault)
        done = loop(server.env(), {"tracker": {"init_timeout": 1}}).end()
    assert done.result["started"] == 0
    assert done.warnings == []
    assert done.log.count("W&B is not used") == 1


@pytest.mark.long
@pytest.mark.parametrize("fault", ["closed", "hang", 500, 401])
def test_online_with_a_broken_server_is_one_warning(loop, fault):
    with StandIn() as server:
        break_server(server, fault)
        done = loop(server.env(), {"tracker": {"mode": "online", "init_timeout": 1}}).end()
    assert len(done.warnings) == 1
    assert "W&B failed in init" in done.warnings[0]
    assert "own files are not affected" in done.warnings[0]
    assert done.result["url"] is None
    assert done.seconds_to_exit < 1 + BUSY_SECONDS


@pytest.mark.long
@pytest.mark.parametrize("fault", ["closed", "hang", 500, 401])
def test_a_server_that_breaks_midway_is_one_warning(loop, fault):
    with StandIn() as server:
        training = loop(server.env(), {"pause_at": [5]})
        training.wait_for_pause()
        break_server(server, fault)
        training.end()
        assert len(training.warnings) == 1
        assert training.seconds_to_exit < FINISH_TIMEOUT + BUSY_SECONDS


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_wandb_core_is_restarted_and_no_row_is_missing(loop, server, signum):
    training = loop(server.env(), {"pause_at": [5]})
    training.wait_for_pause()
    os.kill(training.wandb_core(), signum)
    training.end()
    assert training.warnings == []
    assert steps_of(server.run("run-1")) == ALL_STEPS
    assert server.run("run-1").summary["best/val/acc1"] == 0.5
    assert server.run("run-1").exit_code == 0


@pytest.mark.long
def test_a_wandb_core_that_is_killed_twice_is_one_warning(loop, server):
    training = loop(server.env(), {"pause_at": [3, 6]})
    for _ in range(2):
        training.wait_for_pause()
        os.kill(training.wandb_core(), signal.SIGKILL)
        time.sleep(0.3)  # until its socket is closed
        training.go_on()
    training.end()
    assert len(training.warnings) == 1


@pytest.mark.long
def test_the_next_run_of_the_process_does_not_suffer_from_a_killed_wandb_core(loop, server):
    # without its metrics.jsonl a run is not restarted, since rows would be missing in the middle
    training = loop(server.env(), {"run_id": "first", "pause_at": [5], "replay": False}, {"run_id": "second"})
    training.wait_for_pause()
    os.kill(training.wandb_core(), signal.SIGKILL)
    training.end()
    assert len(training.warnings) == 1
    assert "W&B failed in" in training.warnings[0]
    assert steps_of(server.run("second")) == ALL_STEPS


@pytest.mark.long
@pytest.mark.parametrize(
    ("steps", "reason"), [(STEPS, "finish: no answer within 3 s"), (12_000, "10000 rows are waiting")]
)
def test_a_wandb_core_that_hangs_blocks_neither_rows_nor_the_end(loop, server, steps, reason):
    training = loop(server.env(), {"pause_at": [5], "steps": steps})
    training.wait_for_pause()
    os.kill(training.wandb_core(), signal.SIGSTOP)
    training.end()
    assert len(training.warnings) == 1
    assert reason in training.warnings[0]
    assert training.seconds_to_exit < FINISH_TIMEOUT + BUSY_SECONDS


@pytest.mark.long
def test_a_signal_to_the_process_group_ends_the_run_in_order(loop, server):
    training = loop(server.env(), {"pause_at": [5], "exit_code": 1})
    training.wait_for_pause()
    os.killpg(training.process.pid, signal.SIGTERM)
    training.end()
    assert training.warnings == []
    assert steps_of(server.run("run-1")) == ALL_STEPS
    assert server.run("run-1").exit_code == 1


def inspect(directory, *options):
    """Return what `wandb leet inspect` reads from the one offline run below `directory`."""
    (run,) = directory.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_offline_files_hold_rows_config_summary_and_exit_code(loop, tmp_path):
    done = loop({}, {"exit_code": 1, "tracker": {"mode": "offline", "tags": ["a"]}}).end()
    assert done.warnings == []
    assert done.result["url"] is None
    records = [json.loads(line) for line in inspect(tmp_path).splitlines()]
    rows = [r["history"]["item"] for r in records if r["type"] == "history"]
    assert [(r["_step"], r["global_step"], r["train/loss"]) for r in rows] == [(k, k, 1 / k) for k in ALL_STEPS]
    run = next(r["run"] for r in records if r["type"] == "run")
    assert (run["run_id"], run["run_group"], run["job_type"]) == ("run-1", "study", "fsam")
    end = json.loads(inspect(tmp_path, "--summary"))
    assert end["config"] == {"optimizer": {"name": "fsam", "rho": 0.2}, "seed": 3}
    assert (end["name"], end["tags"], end["exit_code"]) == ("fsam-s0", ["a"], 1)
    assert (end["summary"]["best/val/acc1"], end["summary"]["cost"]) == (0.5, 7)


@pytest.mark.long
def test_offline_with_a_killed_wandb_core_is_one_warning(loop):
    training = loop({}, {"pause_at": [5], "tracker": {"mode": "offline"}})
    training.wait_for_pause()
    os.kill(training.wandb_core(), signal.SIGKILL)
    training.end()
    assert len(training.warnings) == 1


def test_a_directory_that_cannot_be_written_is_one_warning(loop, tmp_path):
    (tmp_path / "wandb").write_text("a file where W&B wants a directory")
    done = loop({}, {"tracker": {"mode": "offline"}}).end()
    assert len(done.warnings) == 1
    assert "W&B failed in init" in done.warnings[0]


def test_files_that_wandb_writes_elsewhere_are_one_warning(loop, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    env = {"TMPDIR": str(tmp_path / "tmp")}  # where wandb goes without a word
    done = loop(env, {"wandb_directory": str(tmp_path / "file" / "runs"), "tracker": {"mode": "offline"}}).end()
    assert len(done.warnings) == 1
    assert "is not writable, and wandb went to" in done.warnings[0]


def test_a_session_that_opens_too_late_is_ended(monkeypatch, caplog):
    release, ended = threading.Event(), threading.Semaphore(0)

    class SlowSession:
        def __init__(self, cfg, mode):
            release.wait(30)

    monkeypatch.setattr(wandb_tracker, "WandbSession", SlowSession)
    monkeypatch.setattr(wandb_tracker, "kill_service", ended.release)
    monkeypatch.setattr(wandb_tracker, "GRACE_SECONDS", 0)
    tracker = wandb_tracker.WandbTracker(TrackerConfig(name="wandb", init_timeout=0.1), "online", 0, None)
    tracker.start()
    assert "W&B failed in init" in caplog.text
    assert ended.acquire(timeout=5)
    assert not ended.acquire(timeout=0.2)
    release.set()
    assert ended.acquire(timeout=5)
    assert tracker.url is None


@pytest.mark.parametrize("cfg", [TrackerConfig(name="none"), TrackerConfig(name="wandb", mode="disabled")])
def test_none_and_disabled_leave_no_trace(tmp_path, cfg):
    tracker = build_tracker(
        cfg, run_id="r", name="n", group="g", job_type="j", config={}, directory=tmp_path, start_step=0
    )
    assert isinstance(tracker, NullTracker)
    tracker.log({"a": 1.0}, 1)
    tracker.finish({})
    assert tracker.url is None
    assert list(tmp_path.iterdir()) == []


def test_rows_are_read_without_a_last_line_that_is_being_written(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "a": NaN}\n{"step": 2, "a": 0.5}\n{"step": 3, "a')
    assert [row["step"] for row in read_rows(metrics)] == [1, 2]


def test_a_whole_run_is_mirrored_row_by_row(tmp_path, monkeypatch):
    from support.runs import compose_tiny

    from fsamlab.run import run
    from fsamlab.rundir.rows import read_rows

    with StandIn() as server:
        for key, value in server.env().items():
            monkeypatch.setenv(key, value)
        online = ("tracker=wandb", "tracker.mode=online", "name=study", "train.log_every_steps=2", "optimizer=fsam")
        summary = run(compose_tiny(*online), tmp_path / "a")
        (mirrored,) = server.runs.values()
        rows = [(row["step"], row["train/loss"]) for row in read_rows(tmp_path / "a")]
        assert [(row["global_step"], row["train/loss"]) for row in mirrored.history] == rows
        assert mirrored.plain_config["optimizer"]["rho"] == 0.2
        assert mirrored.summary["best/val/acc1"] == summary["best/val/acc1"]
        assert (mirrored.meta["groupName"], mirrored.meta["jobType"], mirrored.exit_code) == ("study", "fsam", 0)
        assert not server.unknown
