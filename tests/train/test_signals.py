import os
import signal
import subprocess
import sys

import pytest
import torch
from support.runs import compose_tiny

from fsamlab.run import run
from fsamlab.rundir import checkpoint
from fsamlab.rundir.reading import read_status
from fsamlab.rundir.record import RunRecord
from fsamlab.rundir.rows import read_rows
from fsamlab.train import trainer
from fsamlab.train.signals import Preempted, SignalFlag
from fsamlab.train.trainer import Trainer


def test_signals_set_a_flag_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with SignalFlag() as flag:
        assert not flag.stops
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.stops
        assert flag.take() == signal.SIGTERM
        assert not flag.stops
    assert signal.getsignal(signal.SIGTERM) is before


def test_term_inside_slurm_only_asks_for_a_checkpoint(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    called = []
    before = signal.signal(signal.SIGUSR2, lambda *a: called.append(a[0]))
    try:
        with SignalFlag() as flag:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not flag.stops
            os.kill(os.getpid(), signal.SIGUSR2)  # submitit sends both, back to back
            assert flag.stops
            assert not called
            flag.requeue(flag.take())
            assert called == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(("code", "error"), [(-signal.SIGTERM, SystemExit), (1, subprocess.CalledProcessError)])
def test_scontrol_may_be_ended_by_the_requeue_that_it_asks_for(monkeypatch, code, error):
    def handler(signum, frame):
        raise subprocess.CalledProcessError(code, ["scontrol", "requeue", "7"])

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    before = signal.signal(signal.SIGUSR2, handler)
    try:
        with pytest.raises(error), SignalFlag() as flag:
            flag.requeue(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_term_never_replaces_a_signal_that_asks_for_leaving(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with SignalFlag() as flag:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.stops
        assert flag.take() == signal.SIGUSR2


def test_a_second_interrupt_leaves_at_once():
    code = (
        "import os, signal; from fsamlab.train.signals import SignalFlag\n"
        "with SignalFlag():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('not any more', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "still here\n"
    assert done.returncode == -signal.SIGINT


@pytest.fixture
def stop_in(monkeypatch):
    """Return a function that makes one call of a function send this process a signal, before or after its work."""

    def arrange(owner, name, signum, nth=1, when="after"):
        real, calls = getattr(owner, name), []

        def call(*args, **keywords):
            calls.append(args)
            if when == "before" and len(calls) == nth:
                os.kill(os.getpid(), signum)
            result = real(*args, **keywords)
            if when == "after" and len(calls) == nth:
                os.kill(os.getpid(), signum)
            return result

        monkeypatch.setattr(owner, name, call)
        return calls

    return arrange


SHORT = ("train.epochs=2", "train.save_best=true", "train.checkpoint_every_steps=4", "train.log_every_steps=4")


@pytest.fixture
def handlers():
    """Record what reaches the handlers that were there before the run: submitit's, or the shell's."""
    reached = []
    before = {s: signal.signal(s, lambda n, frame: reached.append(n)) for s in (signal.SIGTERM, signal.SIGUSR2)}
    yield reached
    for s, handler in before.items():
        signal.signal(s, handler)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("nth", [1, 2])  # last.pt's, and best.pt's
def test_a_stop_while_a_checkpoint_is_written(tmp_path, stop_in, handlers, signum, when, nth):
    stop_in(checkpoint, "save", signum, nth, when)
    with pytest.raises(Preempted, match=signal.Signals(signum).name):
        run(compose_tiny(*SHORT), tmp_path)
    assert read_status(tmp_path)["status"] == "preempted"
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["step"] == read_status(tmp_path)["step"] < 10
    assert handlers == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_only_signal_of_a_job_while_a_checkpoint_is_written(tmp_path, stop_in, handlers, monkeypatch, when):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    stop_in(checkpoint, "save", signal.SIGUSR2, 1, when)
    with pytest.raises(Preempted):
        run(compose_tiny(*SHORT), tmp_path)
    assert handlers == [signal.SIGUSR2]  # submitit's, which requeues the job
    assert read_status(tmp_path)["status"] == "preempted"


def test_term_of_slurm_while_a_checkpoint_is_written_asks_for_another(tmp_path, stop_in, handlers, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    saves = stop_in(checkpoint, "save", signal.SIGTERM)
    run(compose_tiny(*SHORT, "train.save_best=false"), tmp_path)
    steps = [payload["step"] for _, payload, *_ in saves]
    assert steps[:3] == [4, 5, 8]
    assert "SIGTERM received: checkpoint written at step 5, training continues" in caplog.text
    assert read_status(tmp_path)["status"] == "finished"
    assert handlers == []


def test_term_of_slurm_in_an_evaluation_does_not_wait_for_its_end(tmp_path, stop_in, monkeypatch):
    run(compose_tiny(*SHORT), tmp_path / "whole")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    stop_in(trainer, "evaluated", signal.SIGTERM, 1, "before")
    saves = stop_in(checkpoint, "save", 0, 0)
    run(compose_tiny(*SHORT), tmp_path / "told")
    states = [payload for _, payload, *_ in saves if "optimizer" in payload]
    assert [(s["step"], s["boundary_done"]) for s in states[:3]] == [(4, True), (5, False), (8, True)]
    whole, told = (checkpoint.load(tmp_path / d / "checkpoints" / "last.pt")["model"] for d in ("whole", "told"))
    assert all(torch.equal(whole[k], told[k]) for k in whole)
    assert [r["step"] for r in read_rows(tmp_path / "told")] == [r["step"] for r in read_rows(tmp_path / "whole")]


@pytest.mark.parametrize("place", [("trainer", "summary"), ("record", "write_summary"), ("checkpoint", "finish")])
def test_a_stop_after_the_last_step_lets_the_run_finish_and_stops_what_comes_after(tmp_path, stop_in, handlers, place):
    owner = {"trainer": Trainer, "record": RunRecord, "checkpoint": checkpoint}[place[0]]
    stop_in(owner, place[1], signal.SIGTERM)
    summary = run(compose_tiny(*SHORT), tmp_path)
    assert read_status(tmp_path)["status"] == "finished"
    assert summary["cost/steps"] == 10
    assert handlers == [signal.SIGTERM]


def test_a_signal_between_any_two_operations_of_take_is_not_lost():
    moment = 0
    while True:
        flag, operations = SignalFlag(), []

        def trace(frame, event, arg, flag=flag, operations=operations, moment=moment):
            if frame.f_code is not SignalFlag.take.__code__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                operations.append(event)
                if len(operations) == moment + 1:
                    flag._handle(signal.SIGTERM, None)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            first = flag.take()
        finally:
            sys.settrace(before)
        if len(operations) <= moment:
            break
        assert signal.SIGTERM in (first, flag.take()), moment
        moment += 1
    assert moment > 10
