"""`fsamlab sync`: W&B has what the files say, once; whatever is not there is a line and exit code 1."""

import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from support.marks import long_but
from support.runs import ROOT, compose_tiny
from support.wandb_standin import HISTORY, StandIn

from fsamlab.config import to_plain
from fsamlab.run import run
from fsamlab.rundir.rows import read_rows
from fsamlab.tracking import sync
from fsamlab.tracking.sync import same

NAN, INF = float("nan"), float("inf")
SUMMARY = {"best/val/acc1": 0.5, "final/train/loss": 0.1, "cost/steps": 10, "data/split_hash": "ab", "x": NAN}
OWN = {"_step", "_timestamp", "_runtime", "_wandb"}  # what wandb adds to rows and summaries
ALL_STEPS = list(range(1, 11))


@pytest.fixture
def server():
    with StandIn() as server:
        yield server
        assert not server.unknown


@pytest.fixture(scope="module")
def plain():
    return to_plain(compose_tiny("name=study", "optimizer=fsam"))


@pytest.fixture
def local(tmp_path, plain):
    """Write run directories as a run leaves them, with rows of `steps`."""

    def write(name="fsam-s0", steps=ALL_STEPS, status="finished", summary=SUMMARY, loss=1.0, group="study", **fields):
        directory = tmp_path / "runs" / name
        directory.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(plain)
        config["name"], config["tracker"]["tags"] = group, ["a", "b"]
        (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (directory / "status.json").write_text(
            json.dumps({"status": status, "run_id": name, "resumed_at": 0, **fields})
        )
        (directory / "metrics.jsonl").write_text("".join(row(k, loss) for k in steps))
        if status == "finished":
            (directory / "summary.json").write_text(json.dumps(summary))
        return directory

    return write


def row(step, loss=1.0):
    return json.dumps({"step": step, "time": step + loss, "train/loss": loss / step, "val/acc1": 0.1}) + "\n"


def fsamlab(*words, env=None, cwd=None):
    command = [sys.executable, "-m", "fsamlab.command.main", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}, cwd=cwd
    )


def synced(server, *words, exit_code=0, env=None, **options):
    """Run `fsamlab sync`; return its lines."""
    done = fsamlab("sync", *words, env={**server.env(), **(env or {})}, **options)
    assert "Traceback" not in done.stderr
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout.splitlines() + done.stderr.splitlines()


def steps_of(mirrored):
    assert [row["_step"] for row in mirrored.history] == [row["global_step"] for row in mirrored.history]
    return [row["global_step"] for row in mirrored.history]


def told(mirrored):
    """Everything that the server was told of a run, in text, so that NaN equals NaN; without what wandb adds."""
    meta = {k: v for k, v in mirrored.meta.items() if k in ("groupName", "jobType", "displayName", "tags")}
    rows = [{k: v for k, v in row.items() if k not in OWN - {"_step"}} for row in mirrored.history]
    summary = {k: v for k, v in mirrored.summary.items() if k not in OWN}
    return json.dumps([rows, summary, mirrored.plain_config, meta, mirrored.exit_code], sort_keys=True, indent=1)


def without_empty(config):
    """Return nested dictionaries without those that hold nothing."""
    return {k: without_empty(v) if isinstance(v, dict) else v for k, v in config.items() if v != {}}


def files(directory):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in directory.rglob("*") if p.is_file()}


def test_a_run_arrives_as_its_files_have_it(server, local, tmp_path, plain):
    directory = local()
    before = files(tmp_path)
    (tmp_path / "tmp").mkdir()
    done = fsamlab("sync", directory, env={**server.env(), "TMPDIR": str(tmp_path / "tmp")}, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "fsam-s0: 10 rows sent, 0 were there",
        f"1 run is complete in W&B  {server.url}/standin/fsamlab/runs/study-fsam-s0",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    mirrored = server.run("study-fsam-s0")
    rows = [{k: v for k, v in row.items() if k not in OWN | {"global_step"}} for row in mirrored.history]
    assert rows == [{k: v for k, v in row.items() if k != "step"} for row in read_rows(directory)]
    assert steps_of(mirrored) == ALL_STEPS
    assert {k: mirrored.summary.get(k) for k in SUMMARY} == {**SUMMARY, "x": None}  # wandb has no NaN in a summary
    config = {**plain, "tracker": {**plain["tracker"], "tags": ["a", "b"]}}
    assert without_empty(mirrored.plain_config) == without_empty(config)  # wandb drops an empty section
    place = {k: mirrored.meta[k] for k in ("groupName", "jobType", "displayName", "tags")}
    assert place == {"groupName": "study", "jobType": "fsam", "displayName": "fsam-s0", "tags": ["a", "b"]}
    assert mirrored.exit_code == 0
    assert "wandb-metadata.json" not in mirrored.uploads  # of the machine that uploads
    assert files(tmp_path) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_second_time_sends_nothing(server, local, tmp_path):
    local(), local("sgd-s0", steps=[2, 4])
    synced(server, tmp_path / "runs")
    before = {
        name: (told(server.run(f"study-{name}")), server.run(f"study-{name}").meta) for name in ("fsam-s0", "sgd-s0")
    }
    lines = synced(server, tmp_path / "runs")
    assert lines[:2] == ["fsam-s0: 0 rows sent, 10 were there", "sgd-s0: 0 rows sent, 2 were there"]
    assert lines[2] == f"2 runs are complete in W&B  {server.url}/standin/fsamlab"
    for name, (all_of_it, meta) in before.items():
        assert told(server.run(f"study-{name}")) == all_of_it
        assert server.run(f"study-{name}").meta == meta


@pytest.mark.long
def test_the_same_as_training_mirrors(tmp_path, monkeypatch):
    options = ("name=study", "train.log_every_steps=2", "optimizer=fsam", "tracker=wandb", "tracker.mode=online")
    config = compose_tiny(*options)
    with StandIn() as live, StandIn() as late:
        for key, value in live.env().items():
            monkeypatch.setenv(key, value)
        directory = tmp_path / "runs" / "a"
        run(config, directory)
        synced(late, directory)
        (mirrored,), (uploaded,) = live.runs.values(), late.runs.values()
        assert told(uploaded) == told(mirrored)
        assert uploaded.run_id == mirrored.run_id
        assert len(uploaded.history) > 4
        before = live.num_requests, told(mirrored)
        assert "0 rows sent, 6 were there" in synced(live, directory)[0]
        assert told(mirrored) == before[1]
        assert live.num_requests - before[0] < 6  # asked, not opened
        assert not live.unknown + late.unknown


@pytest.mark.parametrize("status", long_but(("failed",), ["failed", "preempted", "cancelled", "running"]))
def test_a_run_that_ended_otherwise_has_exit_code_1(server, local, status):
    owner = {"host": "elsewhere", "pid": 1, "pid_start": "1", "attempt": 1}  # of a run marked running: silent for long
    directory = local(status=status, steps=[1, 2])
    (directory / "owner.json").write_text(json.dumps(owner))
    os.utime(directory / "owner.json", (0, 0))
    assert synced(server, directory)[0] == "fsam-s0: 2 rows sent, 0 were there"
    assert server.run("study-fsam-s0").exit_code == 1
    assert steps_of(server.run("study-fsam-s0")) == [1, 2]
    # it goes on, and finishes
    local()
    assert synced(server, directory)[0] == "fsam-s0: 8 rows sent, 2 were there"
    assert server.run("study-fsam-s0").exit_code == 0
    assert steps_of(server.run("study-fsam-s0")) == ALL_STEPS


@pytest.mark.parametrize("mode", ["offline", "disabled"])
@pytest.mark.long
def test_a_run_that_failed_before_its_first_row_where_wandb_mode_says_otherwise(server, local, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)  # of the shell that trained; the command is an explicit wish
    directory = local(status="failed", steps=[])
    for _ in range(2):
        assert synced(server, directory)[0] == "fsam-s0: 0 rows sent, 0 were there"
    assert (server.run("study-fsam-s0").history, server.run("study-fsam-s0").exit_code) == ([], 1)


def test_a_running_run_and_one_that_has_not_started_are_left_alone(server, local):
    running, queued = local(status="running"), local("sgd-s0", status="queued")
    owner = {"host": "elsewhere", "pid": 1, "pid_start": "1", "attempt": 1}
    (running / "owner.json").write_text(json.dumps(owner))
    lines = synced(server, running, queued)
    assert lines[0] == "fsam-s0: skipped: is running; sync it when it has ended"
    assert lines[1] == "sgd-s0: skipped: has not started"
    assert lines[2].startswith("0 runs are complete in W&B, 2 skipped")
    assert server.runs == {}


@pytest.mark.long
def test_the_rest_of_a_run_whose_first_attempt_was_mirrored_and_died(server, local, tmp_path):
    loop = ROOT / "tests" / "support" / "mirrored_loop.py"
    spec = {"run_id": "study-fsam-s0", "start": 0, "steps": 6, "exit_code": 1, "pause_at": [6], "replay": True}
    spec |= {"directory": str(tmp_path), "wandb_directory": str(tmp_path)}
    spec |= {"tracker": {"mode": "online", "init_timeout": 20, "finish_timeout": 20}}
    first = subprocess.Popen(
        [sys.executable, str(loop), json.dumps([spec])],
        env={**os.environ, **server.env()},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert first.stdout.readline() == "PAUSED\n"
    deadline = time.monotonic() + 30
    while not server.runs or len(server.run("study-fsam-s0").history) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    time.sleep(0.5)
    directory = local(resumed_at=4)  # from the checkpoint; rows 5 and 6 were made again
    (line, *_) = synced(server, directory)
    assert line == "fsam-s0: 4 rows sent, 6 were there"
    assert steps_of(server.run("study-fsam-s0")) == ALL_STEPS
    assert server.run("study-fsam-s0").exit_code == 0
    assert server.run("study-fsam-s0").plain_config["optimizer"]["name"] == "fsam"


def test_a_torn_last_line_is_left_out(server, local):
    directory = local(status="failed")
    with (directory / "metrics.jsonl").open("a") as f:
        f.write('{"step": 11, "train/lo')
    assert synced(server, directory)[0] == "fsam-s0: 10 rows sent, 0 were there"
    assert steps_of(server.run("study-fsam-s0")) == ALL_STEPS


DAMAGED = [
    ("metrics.jsonl", row(1) + '{"step": 2, "tr\n' + row(3), "metrics.jsonl, line 2: not a JSON object"),
    ("metrics.jsonl", row(1) + row(1), "metrics.jsonl, line 2: step 1 after 1: steps have to grow"),
    ("metrics.jsonl", '{"epoch": 1}\n', "metrics.jsonl, line 1: step is missing"),
    ("metrics.jsonl", '{"step": "x"}\n', "metrics.jsonl, line 1: step is 'x'"),
    ("metrics.jsonl", '{"step": NaN}\n', "metrics.jsonl, line 1: step nan after -1"),
    ("summary.json", "[1, 2]", "summary.json is not a JSON object"),
    ("status.json", '{"status', "status.json is not a JSON object"),
    ("status.json", '{"status": "finished"}', "status.json has no run_id"),
    ("config.yaml", "a: 1", "config.yaml is not the configuration of a run: optimizer.name is missing"),
    ("config.yaml", "optimizer: {name: sam}", "config.yaml is no run's configuration: KeyError: 'tracker'"),
    ("config.yaml", "[1]", "config.yaml is not the configuration of a run: it holds a list"),
    ("config.yaml", "a: [", "config.yaml is not the configuration of a run: is not YAML: ParserError"),
    ("config.yaml", b"name: \xff", "config.yaml is not the configuration of a run: is not YAML: ReaderError"),
    ("metrics.jsonl", None, "Is a directory"),
    ("measurements/a.jsonl", "{\n{}\n", "a.jsonl, line 1: not a JSON object"),
]


@pytest.mark.parametrize(("file", "text", "said"), long_but((DAMAGED[0], DAMAGED[-1]), DAMAGED))
def test_a_damaged_file_is_one_line_and_the_other_runs_go_on(server, local, tmp_path, file, text, said):
    bad = local("asam-s0")
    (bad / "measurements").mkdir()
    if text is None:
        (bad / file).unlink()
        (bad / file).mkdir()
    else:
        (bad / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    local()
    lines = synced(server, tmp_path / "runs", exit_code=1)
    assert lines[0].startswith("asam-s0: failed: ")
    assert f"{bad}/{file}" in lines[0]
    assert said in lines[0]
    assert lines[1] == "fsam-s0: 10 rows sent, 0 were there"
    assert lines[2].startswith("1 run is complete in W&B, 1 failed")
    assert len(server.runs) == 1


@pytest.mark.long
def test_measurements_go_to_the_summary_and_newer_ones_replace_them(server, local):
    directory = local()
    (directory / "measurements").mkdir()

    def measure(file, value, when, step=10):
        row = {"step": step, "epoch": step / 5, "measured": when, "checkpoint": "last", "sharpness/one_step": value}
        (directory / "measurements" / file).write_text(json.dumps(row) + "\n")

    measure("a.jsonl", 0.25, "2026-01-01"), measure("early.jsonl", 9.0, "2026-01-09", step=5)
    synced(server, directory)
    assert server.run("study-fsam-s0").summary["measured/sharpness/one_step"] == 0.25
    measure("b.jsonl", 0.5, "2026-01-02")
    assert synced(server, directory)[0] == "fsam-s0: 0 rows sent, 10 were there"
    summary = server.run("study-fsam-s0").summary
    assert (summary["measured/sharpness/one_step"], summary["measured/step"]) == (0.5, 10)
    assert steps_of(server.run("study-fsam-s0")) == ALL_STEPS
    assert server.run("study-fsam-s0").exit_code == 0


@pytest.mark.long
def test_nan_and_infinity_survive(server, local):
    directory = local(summary={"s": NAN, "t": INF, "u": {"d": -INF, "e": NAN}, "v": None, "w": [1, 2.5]})
    (directory / "metrics.jsonl").write_text('{"step": 1, "a": NaN, "b": Infinity, "c": -Infinity}\n')
    synced(server, directory)
    (only,) = server.run("study-fsam-s0").history
    assert [str(only[k]) for k in "abc"] == ["nan", "inf", "-inf"]
    assert synced(server, directory)[0] == "fsam-s0: 0 rows sent, 1 were there"


@pytest.mark.parametrize(
    ("ours", "theirs", "equal"),
    [
        (NAN, NAN, True),
        (NAN, "NaN", True),
        (INF, "Infinity", True),
        (-INF, "-Infinity", True),
        (INF, -INF, False),
        (NAN, None, True),
        (NAN, 0.0, False),
        (0.1, 0.1 + 1e-16, True),
        (0.1, 0.1001, False),
        (1, "1", False),
        (0, None, False),
        ({"a": [1, NAN]}, {"a": [1.0, "NaN"]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], [1, 2], False),
    ],
)
def test_values_after_a_way_through_json(ours, theirs, equal):
    assert same(ours, theirs) == equal


@pytest.mark.long
def test_a_server_that_shows_rows_late_is_waited_for(server, local, monkeypatch):
    answer, late = server._resume_status, []

    def behind(variables):
        found = answer(variables)
        bucket = found["model"]["bucket"]
        if bucket and bucket["state"] == "finished" and len(late) < 2:  # after the upload
            late.append(bucket["historyLineCount"])
            bucket["historyLineCount"], bucket["historyTail"] = 0, "[]"
        return found

    monkeypatch.setattr(server, "_resume_status", behind)
    assert synced(server, local())[0] == "fsam-s0: 10 rows sent, 0 were there"
    assert len(late) == 2


@pytest.mark.long
def test_odd_names(server, local):
    directory = local("fsam [x] s0", group="rho=0.1,seed:2 ä#?")
    assert synced(server, directory)[0] == "fsam [x] s0: 10 rows sent, 0 were there"
    (mirrored,) = server.runs.values()
    assert (mirrored.meta["groupName"], mirrored.meta["displayName"]) == ("rho=0.1,seed:2 ä#?", "fsam [x] s0")
    assert synced(server, directory)[0] == "fsam [x] s0: 0 rows sent, 10 were there"
    assert len(server.runs) == 1


def test_project_and_entity_are_replaced(server, local):
    directory = local()
    (*_, last) = synced(server, directory, "--project", "other", "--entity", "team")
    assert list(server.runs) == [("team", "other", "study-fsam-s0")]
    assert last.endswith(f"{server.url}/team/other/runs/study-fsam-s0")


def test_a_dry_run_sends_nothing(server, local):
    directory = local()
    assert synced(server, directory, "--dry-run")[:2] == ["fsam-s0: 10 rows to send, 0 were there", "1 run checked"]
    assert server.runs == {}


def test_a_dry_run_without_a_key_says_what_is_local(server, local, tmp_path):
    local(), local("waiting", status="queued")
    lines = synced(server, tmp_path / "runs", "--dry-run", env={"WANDB_API_KEY": ""})
    assert lines == [
        "fsam-s0: 10 rows in the files",
        "waiting: skipped: has not started",
        "1 run checked, 1 skipped, no API key here: the rows that W&B has already are not known",
    ]
    (tmp_path / "runs" / "fsam-s0" / "metrics.jsonl").write_text("no JSON\n")
    line = synced(server, tmp_path / "runs" / "fsam-s0", "--dry-run", exit_code=1, env={"WANDB_API_KEY": ""})[0]
    assert "failed" in line
    assert "metrics.jsonl, line 1" in line
    assert server.num_requests == 0


@pytest.mark.long
def test_a_forced_run_that_is_not_as_far_as_the_server_is_said(server, local):
    synced(server, local())
    before = told(server.run("study-fsam-s0"))
    directory = local(steps=[1, 2, 3], loss=2.0, status="failed", forced=True)
    line = synced(server, directory, exit_code=1)[0]
    assert line.startswith(
        "fsam-s0: failed: W&B has step 10, the files end at 3: the run was started over (force=true)"
    )
    assert "--project" in line
    assert told(server.run("study-fsam-s0")) == before


@pytest.mark.long
def test_a_forced_run_with_other_values_is_said(server, local):
    synced(server, local(steps=[1, 2, 3], status="failed"))
    before = told(server.run("study-fsam-s0"))
    line = synced(server, local(loss=2.0, forced=True), exit_code=1)[0]
    assert "W&B has another history under this id: at step 3 train/loss is 0.333" in line
    assert told(server.run("study-fsam-s0")) == before


@pytest.mark.long
def test_rows_that_are_missing_in_the_middle_are_said(server, local):
    synced(server, local(steps=[1, 2, 5], status="failed"))
    directory = local()
    line = synced(server, directory, "--dry-run", exit_code=1)[0]
    assert "5 rows to send, but 2 rows up to step 5 are in the files and not there" in line
    assert steps_of(server.run("study-fsam-s0")) == [1, 2, 5]
    line = synced(server, directory, exit_code=1)[0]
    assert "5 rows sent, but 2 rows up to step 5 are in the files and not there" in line
    assert steps_of(server.run("study-fsam-s0")) == [1, 2, 5, 6, 7, 8, 9, 10]
    assert "0 rows sent, but 2 rows" in synced(server, directory, exit_code=1)[0]


def test_two_directories_of_one_wandb_run(server, local, tmp_path):
    one, two = local(), local("copy")
    (two / "status.json").write_text((one / "status.json").read_text())
    lines = synced(server, tmp_path / "runs", exit_code=1)
    assert "is the same W&B run as" in lines[1]
    assert steps_of(server.run("study-fsam-s0")) == ALL_STEPS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WANDB_API_KEY": ""}, "error: no API key for"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "error: W&B server http://127.0.0.1:9 does not answer"),
    ],
)
def test_without_key_or_server_nothing_is_started(server, local, change, said):
    done = fsamlab("sync", local(), env={**server.env(), **change})
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(said)
    assert server.num_requests == 0


def test_a_key_that_is_refused_is_one_line(server, local):
    server.fail(401)
    (line,) = synced(server, local(), exit_code=1)
    assert line.startswith(f"error: W&B server {server.url}:")
    assert "injected" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--project", "a/b"], "error: project='a/b': must have"),
        (["--timeout", "0"], "error: --timeout=0.0: must be"),
    ],
)
def test_bad_options_are_one_line(server, local, words, said):
    (line,) = synced(server, local(), *words, exit_code=1)
    assert line.startswith(said)


@pytest.mark.long
def test_ctrl_c_says_what_was_done_and_the_next_time_goes_on(server, local, tmp_path):
    for name in "abcdef":
        local(name)
    command = [sys.executable, "-m", "fsamlab.command.main", "sync", str(tmp_path / "runs")]
    environment = {**os.environ, **server.env(), "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout.readline() == "a: 10 rows sent, 0 were there\n"
    server.hang = True
    time.sleep(0.3)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: wandb-core gets it too
    out, err = running.communicate(timeout=60)
    server.hang = False
    assert (running.returncode, err) == (130, "")
    done = 1 + out.count("rows sent")
    assert out.splitlines()[-1].startswith(
        f"{done} run{'s are' if done != 1 else ' is'} complete in W&B, {6 - done} not tried"
    )
    assert done < 6
    assert synced(server, tmp_path / "runs")[-1].startswith("6 runs are complete in W&B")
    assert all(steps_of(mirrored) == ALL_STEPS for mirrored in server.runs.values())


@pytest.mark.long
def test_errors_of_the_server_are_a_failed_run_and_the_next_time_completes(server, local, tmp_path):
    local(), local("sgd-s0")
    server.fail(500, "file_stream")
    lines = synced(server, tmp_path / "runs", "--timeout", "2", exit_code=1)
    assert all(": failed: TimeoutError:" in line for line in lines[:2])
    assert lines[2].startswith("0 runs are complete in W&B, 2 failed")
    server.fail(None)
    lines = synced(server, tmp_path / "runs")
    assert lines[0] == "fsam-s0: 10 rows sent, 0 were there"
    assert steps_of(server.run("study-fsam-s0")) == steps_of(server.run("study-sgd-s0")) == ALL_STEPS


@pytest.mark.long
def test_a_row_that_the_server_loses_is_noticed(server, local, monkeypatch):
    receive = server._file_stream

    def lose(mirrored, request):
        answer = receive(mirrored, request)
        mirrored.lines.get(HISTORY, {}).pop(4, None)
        return answer

    monkeypatch.setattr(server, "_file_stream", lose)
    line = synced(server, local(), exit_code=1)[0]
    assert "failed: the server does not have all of it after the upload: 9 rows to step 10, not 10 to step 10" in line


@pytest.mark.long
def test_an_upload_that_the_server_refuses_for_good_is_noticed(server, local):
    server.fail(403, "file_stream")  # wandb gives up at once, and calls the run synced
    line = synced(server, local(), "--timeout", "5", exit_code=1)[0]
    assert "failed: the server does not have all of it after the upload: 0 rows to step -1, not 10 to step 10" in line
    server.fail(None)
    assert synced(server, local())[0] == "fsam-s0: 10 rows sent, 0 were there"


@pytest.mark.long
def test_a_server_that_goes_away_ends_it(server, local, tmp_path, monkeypatch):
    for name in "abc":
        local(name)
    upload = sync.upload

    def upload_then_stop(run, *args):
        done = upload(run, *args)
        if run.directory.name == "a":
            server.fail(503)
        return done

    for key, value in server.env().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sync, "upload", upload_then_stop)
    runs = sorted((tmp_path / "runs").iterdir())
    outcomes = []
    with pytest.raises(sync.CannotUpload, match="does not answer any more; 2 more runs were not tried"):
        outcomes.extend(sync.sync_runs(runs))
    server.fail(None)
    assert synced(server, tmp_path / "runs")[0] == "a: 0 rows sent, 10 were there"
    assert all(steps_of(mirrored) == ALL_STEPS for mirrored in server.runs.values())


@pytest.mark.long
def test_a_hundred_runs_take_one_process_and_seconds(server, local, tmp_path):
    for k in range(100):
        local(f"r{k:03d}")
    began = time.monotonic()
    lines = synced(server, tmp_path / "runs")
    first = time.monotonic() - began
    assert lines[-1].startswith("100 runs are complete in W&B")
    assert len(server.runs) == 100
    began = time.monotonic()
    synced(server, tmp_path / "runs")
    print(f"100 runs: {first:.1f} s, again {time.monotonic() - began:.1f} s")
    assert first < 100
