import os
import signal
import subprocess
import sys

from fsamlab.signals import SignalFlag


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


def test_term_never_replaces_a_signal_that_asks_for_leaving(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with SignalFlag() as flag:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.stops
        assert flag.take() == signal.SIGUSR2


def test_a_second_interrupt_leaves_at_once():
    code = (
        "import os, signal; from fsamlab.signals import SignalFlag\n"
        "with SignalFlag():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('not any more', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "still here\n"
    assert done.returncode == -signal.SIGINT
