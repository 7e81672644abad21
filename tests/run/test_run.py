"""Runs as a whole: kill -9, torn files, signals, failures, skipping; every one with real processes."""

import copy
import json
import logging
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from support.marks import long_but
from support.processes import finish, start, wait_for
from support.runs import ADAMW, compose_tiny

from fsamlab import metrics
from fsamlab.config import ConfigError
from fsamlab.run import run
from fsamlab.rundir import checkpoint
from fsamlab.rundir.reading import read_status
from fsamlab.rundir.record import RunRecord
from fsamlab.rundir.rows import read_rows
from fsamlab.train.signals import Preempted


def timeless(directory):
    return [{k: v for k, v in row.items() if not k.startswith("time")} for row in read_rows(Path(directory))]


def assert_same(a, b):
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.long
@pytest.mark.parametrize(
    "variant", [("optimizer=sgd",), ("optimizer=fsam", "diagnostics.every_steps=3"), ("optimizer=sam_full_ema", *ADAMW)]
)
def test_kill_9_at_random_moments(tmp_path, variant):
    overrides = (*variant, "train.epochs=4", "train.checkpoint_every_steps=1", "train.log_every_steps=2")
    whole = finish(overrides, tmp_path / "whole")
    draw = random.Random(str(variant))
    kills = {"training": 0, "during a save": 0}
    directory = tmp_path / "killed"
    for attempt in range(6):
        process = start(overrides, directory, slow_fsync=0.03)
        seen = read_rows(directory)
        moment = draw.uniform(0.0, 0.6)
        wait_for(lambda seen=seen, p=process: len(read_rows(directory)) > len(seen) or not p.is_alive())
        time.sleep(moment)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        saving = any((directory / "checkpoints").glob(".*.tmp"))
        kills["during a save" if saving else "training"] += 1
        assert attempt < 6
    assert sum(kills.values()) >= 3, kills
    assert_same(finish(overrides, directory), whole)
    assert timeless(directory) == timeless(tmp_path / "whole")
    assert read_status(directory)["status"] == "finished"
    assert read_status(directory)["attempts"] >= 4


def test_a_truncated_last_falls_back_to_previous(tmp_path):
    overrides = ("optimizer=fsam", "train.checkpoint_every_steps=2", "train.log_every_steps=1")
    whole = finish(overrides, tmp_path / "whole")
    directory = tmp_path / "torn"
    process = start(overrides, directory, slow_fsync=0.05)
    wait_for(lambda: (directory / "checkpoints" / "previous.pt").exists())
    process.kill()
    process.join()
    last = directory / "checkpoints" / "last.pt"
    content = last.read_bytes()
    last.unlink()  # for a moment of each save, previous.pt is another name of the same file
    last.write_bytes(content[: len(content) // 2])
    assert_same(finish(overrides, directory), whole)
    assert timeless(directory) == timeless(tmp_path / "whole")
    assert "last.pt cannot be read" in (directory / "run.log").read_text()


@pytest.mark.parametrize("signum", long_but((signal.SIGTERM,), [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]))
def test_signals_checkpoint_and_leave(tmp_path, signum):
    overrides = ("optimizer=fsam", "train.log_every_steps=1", "train.epochs=3")
    whole = finish(overrides, tmp_path / "whole")
    directory = tmp_path / "stopped"
    process = start(overrides, directory, slow_fsync=0.02)
    wait_for(lambda: len(read_rows(directory)) > 3)
    os.kill(process.pid, signum)
    process.join(60)
    status = read_status(directory)
    assert status["status"] == "preempted", status
    assert signal.Signals(signum).name in status["exception"]
    saved = checkpoint.load(directory / "checkpoints" / "last.pt")
    assert saved["step"] == status["step"]
    assert_same(finish(overrides, directory), whole)
    assert timeless(directory) == timeless(tmp_path / "whole")


def test_term_inside_slurm_checkpoints_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    config = compose_tiny("optimizer=fsam", "train.log_every_steps=1")
    sent = []

    append = RunRecord.append

    def send(record, row):
        append(record, row)
        if not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("fsamlab.rundir.record.RunRecord.append", send)
    saves = []
    real = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a, **k: (saves.append(1), real(*a, **k)))
    run(config, tmp_path / "r")
    assert read_status(tmp_path / "r")["status"] == "finished"
    assert len(saves) == 3  # the signal's, the end's, and the weights that stay


def test_a_finished_run_is_skipped_and_says_what_differs(tmp_path, caplog):
    summary = run(compose_tiny("optimizer=sgd"), tmp_path)
    rows = read_rows(tmp_path)
    keys = {key.removeprefix("final/").removeprefix("best/") for key in summary}.union(*rows)
    assert sorted(keys - {row.key for row in metrics.ROWS}) == []
    with caplog.at_level(logging.INFO):
        again = run(compose_tiny("optimizer=sgd", "tracker.project=other", "diagnostics=off"), tmp_path)
    assert again == json.loads((tmp_path / "summary.json").read_text())
    assert again["final/test/acc1"] == summary["final/test/acc1"]
    assert "already finished" in caplog.text
    assert "tracker.project" in caplog.text
    assert read_rows(tmp_path) == rows
    run(compose_tiny("optimizer=sgd", "force=true"), tmp_path)
    assert read_status(tmp_path)["attempts"] == 2
    assert timeless(tmp_path) == [{k: v for k, v in r.items() if not k.startswith("time")} for r in rows]


def test_a_finished_run_keeps_weights_only_and_best_on_request(tmp_path):
    run(compose_tiny("optimizer=fsam", "train.save_best=true", "train.checkpoint_every_steps=3"), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.pt", "last.pt"]
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    assert best["step"] == json.loads((tmp_path / "summary.json").read_text())["best/step"]
    assert {p.name for p in tmp_path.iterdir()} >= {
        "config.yaml", "overrides.yaml", "status.json", "env.json", "metrics.jsonl", "summary.json"
    }  # fmt: skip


def test_a_checkpoint_is_never_of_perturbed_weights(tmp_path, monkeypatch):
    states = []
    monkeypatch.setattr(checkpoint, "save", lambda d, p, *a, **k: states.append(copy.deepcopy(p["model"])))
    run(
        compose_tiny("optimizer=sam", "optimizer.rho=5", "train.epochs=1", "optimizer.lr=0",
                     "train.checkpoint_every_steps=1"), tmp_path / "lr0"
    )  # fmt: skip
    first, last = states[0], states[-1]
    for key in first:
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(first[key], last[key]), key


def test_an_exception_is_in_the_status_and_the_directory_is_free_again(tmp_path, monkeypatch):
    monkeypatch.setattr("fsamlab.train.trainer.evaluated", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(compose_tiny(), tmp_path)
    status = read_status(tmp_path)
    assert (status["status"], status["exception"]) == ("failed", "ZeroDivisionError: division by zero")
    monkeypatch.undo()
    run(compose_tiny(), tmp_path)
    assert read_status(tmp_path)["status"] == "finished"
    assert read_status(tmp_path)["exception"] is None


def test_divergence_is_in_the_status(tmp_path):
    with pytest.raises(RuntimeError):
        run(
            compose_tiny(
                "optimizer=sgd",
                "model.import_path=support.foreign:NoNorm",
                "model.width=null",
                "model.name=mlp",
                "optimizer.lr=1e6",
                "optimizer.weight_decay=1e6",
            ),
            tmp_path,
        )
    assert read_status(tmp_path)["status"] == "failed"
    assert "diverged at step" in read_status(tmp_path)["exception"]


def test_resuming_elsewhere_is_said(tmp_path, caplog, monkeypatch):
    config = compose_tiny("train.checkpoint_every_steps=2")
    monkeypatch.setattr("fsamlab.run.print_run", lambda *a: 1 / 0)
    real = checkpoint.finish
    monkeypatch.setattr(checkpoint, "finish", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run(config, tmp_path)
    monkeypatch.undo()
    assert real is checkpoint.finish
    env = json.loads((tmp_path / "env.json").read_text())
    env["libraries"]["torch"] = "0.0"
    (tmp_path / "env.json").write_text(json.dumps(env))
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path)
    assert "libraries" in caplog.text


def test_no_gpu_is_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(ConfigError, match=r"train\.device=cuda: no usable GPU"):
        run(compose_tiny("train.device=cuda"), tmp_path)


def test_a_preempted_run_says_how_to_go_on():
    assert str(Preempted(signal.SIGTERM, 7)) == "preempted by SIGTERM after step 7; the same command resumes it"


def test_dying_right_after_the_end_leaves_the_weights(tmp_path, monkeypatch):
    whole = compose_tiny("optimizer=fsam")
    run(whole, tmp_path / "whole")

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        run(whole, tmp_path / "died")
    monkeypatch.undo()
    weights = [checkpoint.load(tmp_path / d / "checkpoints" / "last.pt")["model"] for d in ("whole", "died")]
    assert_same(*weights)


def test_a_forced_run_that_fails_early_can_be_started_again(tmp_path):
    run(compose_tiny("optimizer=sgd"), tmp_path)
    with pytest.raises(ConfigError):
        run(compose_tiny("optimizer=sgd", "force=true", "model.width=4", "data.val_size=100000"), tmp_path)
    assert read_status(tmp_path)["status"] == "failed"
    run(compose_tiny("optimizer=sgd"), tmp_path)
    assert read_status(tmp_path)["status"] == "finished"


def test_a_forced_run_that_was_stopped_goes_on(tmp_path):
    overrides = ("optimizer=fsam", "force=true", "train.epochs=3", "train.log_every_steps=1")
    process = start(overrides, tmp_path / "forced", slow_fsync=0.02)
    wait_for(lambda: len(read_rows(tmp_path / "forced")) > 4)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    stopped = read_rows(tmp_path / "forced")
    finish(overrides, tmp_path / "forced")
    assert read_rows(tmp_path / "forced")[: len(stopped)] == stopped  # the same rows, times included: not made again


def test_a_finished_runs_weights_are_no_checkpoint(tmp_path):
    checkpoint.finish(tmp_path / "checkpoints", {"w": torch.zeros(1)}, 3)
    with pytest.raises(checkpoint.CannotResume, match="force=true"):
        run(compose_tiny(), tmp_path)


def test_a_damaged_row_before_the_checkpoint_is_set_aside_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    from fsamlab.tracking.local_run import read_run

    config = compose_tiny("train.epochs=1", "train.log_every_steps=1", "train.checkpoint_every_steps=4")
    run(config, tmp_path / "whole")
    directory, real = tmp_path / "r", checkpoint.save

    def once(*args, **keywords):
        real(*args, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", once)
    with pytest.raises(KeyboardInterrupt):
        run(config, directory)
    monkeypatch.undo()
    rows = directory / "metrics.jsonl"
    content = rows.read_bytes()
    place = content.index(b"\n") + 3  # in the name of the second row's first key
    rows.write_bytes(content[:place] + b"\x00" + content[place + 1 :])
    run(config, directory)
    assert "line 2; the run continues without" in caplog.text
    assert (directory / "metrics.jsonl.damaged").read_bytes().count(b"\n") == 1
    whole = timeless(tmp_path / "whole")
    assert timeless(directory) == [whole[0], *whole[2:]]
    assert rows.read_bytes().startswith(content[: content.index(b"\n")])
    found = read_run(directory, None, None, 60.0)
    assert [row["step"] for row in found.rows] == [1, 3, 4, 5]
    weights = [checkpoint.load(d / "checkpoints" / "last.pt")["model"] for d in (tmp_path / "whole", directory)]
    assert_same(*weights)


def test_mending_keeps_the_length_and_every_good_row():
    import io

    from fsamlab.rundir.rows import Mended

    def mend_rows(content):
        mended = Mended(io.BytesIO(content), len(content))
        return b"".join(mended), mended.damaged

    good = [b'{"step": %d, "x": NaN}\n' % step for step in range(1, 6)]
    for bad in (b"\xff\xfe\n", b"{\n", b'{"step": 2}\n', b'{"x": 1}\n', b"[1]\n", b'{"step": "7"}\n', b"\n"):
        for place in (0, 3, 5):
            lines = [*good[:place], bad, *good[place:]]
            if bad == b'{"step": 2}\n' and place == 0:
                continue  # the row that is thrown out is then the older one
            mended, damaged = mend_rows(b"".join(lines))
            assert len(mended) == sum(map(len, lines))
            assert [json.loads(line)["step"] for line in mended.splitlines()] == [1, 2, 3, 4, 5]
            assert damaged == {place + 1: bad[:-1]}
    assert mend_rows(b"".join(good)) == (b"".join(good), {})
    assert mend_rows(good[0] + b'{"step": 2}!') == (good[0][:-1] + b" " * 12 + b"\n", {2: b'{"step": 2}!'})


def test_a_disk_that_fills_up_is_one_line_and_the_status_says_it(tmp_path, monkeypatch):
    import errno

    from fsamlab.rundir.find import current_status
    from fsamlab.terminal import errors

    append = RunRecord.append

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fills_up(record, row):
        append(record, row)
        monkeypatch.setattr(os, "replace", full)

    monkeypatch.setattr(RunRecord, "append", fills_up)
    with pytest.raises(OSError, match="No space left") as caught:
        run(compose_tiny("train.epochs=1", "train.checkpoint_every_steps=1"), tmp_path)
    assert errors.one_line(caught.value).endswith(".json: No space left on device")
    monkeypatch.undo()
    status = current_status(tmp_path)
    assert status["status"] == "failed"
    assert "No space left on device" in status["exception"]
    assert not list(tmp_path.rglob("*.tmp"))
    run(compose_tiny("train.epochs=1", "train.checkpoint_every_steps=1"), tmp_path)
    assert read_status(tmp_path)["status"] == "finished"
