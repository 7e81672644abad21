"""W&B is a mirror: whatever happens to it, training ends well and the local rows are whole."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from wandb_standin import StandIn

from fsamlab.config import TrackerConfig
from fsamlab.tracking import NullTracker, build_tracker, wandb_tracker

TRAIN = """
    import json, logging, os, signal, sys, time
    from pathlib import Path
    from fsamlab.config import TrackerConfig
    from fsamlab.tracking import build_tracker

    def main():
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        spec = json.loads(sys.argv[1])
        directory = Path(spec["directory"])
        began = time.time()
        tracker = build_tracker(
            TrackerConfig(name="wandb", **spec.get("tracker", {})), run_id=spec.get("run_id", "run-1"), name="fsam-s0",
            group="study", job_type="fsam", config={"optimizer": {"rho": 0.2}}, directory=directory,
            start_step=spec.get("start", 0))
        print("STARTED", round(time.time() - began, 1), flush=True)
        for step in range(spec.get("start", 0) + 1, spec["steps"] + 1):
            row = {"step": step, "train/loss": 1 / step, "val/acc1": step / 100}
            with (directory / "metrics.jsonl").open("a") as f:
                f.write(json.dumps(row) + "\\n")
            tracker.log(row, step)
            time.sleep(spec.get("sleep", 0))
            if step == spec.get("do_at"):
                exec(spec["do"])
        print("TRAINED", flush=True)
        tracker.finish({"best/val/acc1": 0.5}, spec.get("exit_code", 0))
        print("URL", tracker.url, "WANDB", "wandb" in sys.modules, flush=True)

    main()
"""


@pytest.fixture
def train(tmp_path):
    """Run the loop above in a process of its own; every row must be in its metrics.jsonl afterwards."""

    def run(env=None, timeout=120, **spec):
        spec.setdefault("steps", 10)
        spec.setdefault("tracker", {"mode": "online", "init_timeout": 10, "finish_timeout": 6})
        command = [sys.executable, "-c", textwrap.dedent(TRAIN), json.dumps({"directory": str(tmp_path), **spec})]
        began = time.monotonic()
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            text=True,
            capture_output=True,
            timeout=timeout,
            cwd=tmp_path,
            start_new_session=True,
        )
        done.seconds = time.monotonic() - began
        assert done.returncode == 0, done.stdout + done.stderr
        assert "TRAINED" in done.stdout
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [r["step"] for r in rows] == list(range(1, spec["steps"] + 1))
        return done

    return run


def offline_records(directory, kind):
    """Read an offline run back with wandb's own inspector."""
    (path,) = Path(directory).glob("wandb/offline-run-*")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [r[kind] for r in map(json.loads, lines) if r["type"] == kind]


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_offline_files_hold_config_rows_summary_and_exit_code(train, tmp_path):
    train(tracker={"mode": "offline", "tags": ["a"]}, steps=5, exit_code=1)
    (run,) = offline_records(tmp_path, "run")
    assert (run["run_id"], run["run_group"], run["job_type"], run["tags"]) == ("run-1", "study", "fsam", ["a"])
    assert run["config"]["update"]["optimizer"] == {"rho": 0.2}
    rows = [r["item"] for r in offline_records(tmp_path, "history")]
    assert [(r["global_step"], r["train/loss"]) for r in rows] == [(k, 1 / k) for k in range(1, 6)]
    assert [
        r["update"]["best/val/acc1"] for r in offline_records(tmp_path, "summary") if "best/val/acc1" in r["update"]
    ]
    assert offline_records(tmp_path, "exit")[0]["exit_code"] == 1


def test_online_run(train):
    with StandIn() as server:
        first = train(server.env(), steps=4, exit_code=1)
        assert server.run("run-1").exit_code == 1
        run = server.run("run-1")
        assert [r["global_step"] for r in run.history] == [1, 2, 3, 4]
        assert run.plain_config["optimizer"] == {"rho": 0.2}
        assert (run.meta["groupName"], run.meta["jobType"]) == ("study", "fsam")
        assert run.summary["best/val/acc1"] == 0.5
        assert "URL http://127.0.0.1" in first.stdout
        assert not server.unknown


def test_a_requeued_run_sends_no_row_twice(train, tmp_path):
    with StandIn() as server:
        train(server.env(), steps=4)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "metrics.jsonl").write_text("".join(lines[:2]))  # the checkpoint was taken at step 2
        train(server.env(), start=2, steps=6)
        run = server.run("run-1")
        assert [r["global_step"] for r in run.history] == [1, 2, 3, 4, 5, 6]
        assert len(server.runs) == 1
        assert run.exit_code == 0
        assert not server.unknown


def test_auto_without_a_key_never_imports_wandb(train):
    done = train(tracker={"mode": "auto"})
    assert "WANDB False" in done.stdout
    assert "W&B is not used (no API key" in done.stdout


def test_auto_with_an_unreachable_server_says_so_and_goes_on(train):
    env = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{closed_port()}"}
    done = train(env, tracker={"mode": "auto"})
    assert "does not answer" in done.stdout
    assert "URL None" in done.stdout
    assert done.seconds < 30


@pytest.mark.long
def test_online_with_an_unreachable_server_is_one_warning(train):
    env = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{closed_port()}"}
    done = train(env, tracker={"mode": "online", "init_timeout": 3})
    assert done.stdout.count("W&B failed in init") == 1
    assert done.seconds < 40


def test_disabled_and_none_track_nothing(tmp_path):
    for cfg in (TrackerConfig(name="none"), TrackerConfig(name="wandb", mode="disabled")):
        tracker = build_tracker(
            cfg, run_id="r", name="n", group="g", job_type="j", config={}, directory=tmp_path, start_step=0
        )
        assert isinstance(tracker, NullTracker)
        tracker.log({"a": 1.0}, 1)
        tracker.finish({})
    assert not list(tmp_path.iterdir())


def test_wandb_mode_of_the_environment_holds_in_auto(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb_tracker, "may_have_key", lambda: pytest.fail("looked for a key"))
    cfg = TrackerConfig(name="wandb", mode="auto")
    build_tracker(cfg, run_id="r", name="n", group="g", job_type="j", config={}, directory=tmp_path, start_step=0)


KILL_CORE = """
import subprocess
me = os.getpid()
for line in subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]:
    pid, ppid, args = line.split(None, 2)
    if "wandb-core" in args and int(ppid) == me:
        os.kill(int(pid), SIGNUM)
        print("KILLED", flush=True)
time.sleep(1)
"""


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_wandb_core_dies_midway(train, signum):
    """SIGTERM is what scancel sends to every process of a job; the trainer has a handler, wandb-core has none."""
    with StandIn() as server:
        done = train(server.env(), steps=20, do_at=5, do=KILL_CORE.replace("SIGNUM", str(int(signum))))
    assert "KILLED" in done.stdout
    assert done.stdout.count("W&B failed") == 1


@pytest.mark.long
@pytest.mark.parametrize("fault", ["stops", "hangs", "errors", "refuses"])
def test_server_faults_midway(train, fault, tmp_path):
    import threading

    with StandIn() as server:

        def break_it():
            end = time.time() + 60
            while not (server.runs and server.run("run-1").history) and time.time() < end:
                time.sleep(0.05)
            if fault == "stops":
                server.httpd.shutdown()
                server.httpd.server_close()
            elif fault == "hangs":
                server.hang = True
            else:
                server.fail({"errors": 500, "refuses": 401}[fault])

        breaker = threading.Thread(target=break_it)
        breaker.start()
        done = train(server.env(), steps=150, sleep=0.05)
        breaker.join()
        server.hang = False
    assert "TRAINED" in done.stdout
    assert done.seconds < 60


def test_several_runs_in_one_process_do_not_mix(tmp_path, monkeypatch):
    code = """
    import sys
    from pathlib import Path
    from fsamlab.config import TrackerConfig
    from fsamlab.tracking import build_tracker
    for k in (1, 2):
        cfg = TrackerConfig(name="wandb", mode="online")
        t = build_tracker(cfg, run_id=f"run-{k}", name="n", group="g", job_type="j", config={"k": k},
                          directory=Path(sys.argv[1]), start_step=0)
        t.log({"x": float(k)}, 1)
        t.finish({}, 0)
    """
    with StandIn() as server:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
            env={**os.environ, **server.env()},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert [server.run(f"run-{k}").history[0]["x"] for k in (1, 2)] == [1.0, 2.0]
        assert [server.run(f"run-{k}").plain_config["k"] for k in (1, 2)] == [1, 2]


def test_a_directory_that_cannot_be_written_is_a_warning(train, tmp_path):
    (tmp_path / "wandb").write_text("a file where the directory should be")
    done = train(tracker={"mode": "offline"})
    assert "W&B failed in init" in done.stdout


def test_a_whole_run_is_mirrored_row_by_row(tmp_path, monkeypatch):
    from helpers import compose_tiny

    from fsamlab.record import read_rows
    from fsamlab.run import run

    with StandIn() as server:
        for key, value in server.env().items():
            monkeypatch.setenv(key, value)
        online = ("tracker=wandb", "tracker.mode=online", "name=study", "train.log_every_steps=2", "optimizer=fsam")
        config = compose_tiny(*online)
        summary = run(config, tmp_path / "a")
        (mirrored,) = server.runs.values()
        rows = [(row["step"], row["train/loss"]) for row in read_rows(tmp_path / "a")]
        assert [(row["global_step"], row["train/loss"]) for row in mirrored.history] == rows
        assert mirrored.plain_config["optimizer"]["rho"] == 0.2
        assert mirrored.summary["best/val/acc1"] == summary["best/val/acc1"]
        assert (mirrored.meta["groupName"], mirrored.meta["jobType"], mirrored.exit_code) == ("study", "fsam", 0)
        assert not server.unknown
