"""The server of local jobs: when it starts, and that no job imports again what takes long."""

import gc
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hydra.core.plugins import Plugins

from fsamlab.checks import ConfigError
from fsamlab.sweep import plan, pool
from fsamlab.terminal.errors import SweepFailed

IN_A_JOB = """
import sys
from pathlib import Path
import fsamlab.sweep.preload
from hydra import compose
from fsamlab.config import typed
from fsamlab.config.compose import composing
with composing():
    config = typed(compose("config", overrides=["train.max_steps=1", "train.progress=false", "tracker=none"]))
from fsamlab.run import run
before = set(sys.modules)
run(config, Path(sys.argv[1]))
new = [name for name in sys.modules if name not in before]
print("imported:", [name for name in new if not name.startswith(("fsamlab.", "torch.utils.serialization"))])
"""


@pytest.mark.long
def test_a_job_imports_nothing_that_its_server_could_have_imported(tmp_path):
    command = [sys.executable, "-c", IN_A_JOB, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []"


def fake_jobs(monkeypatch, happened):
    def compose_job(loader, master, words):
        happened.append(words[0])
        if words[0] == "bad":
            raise ConfigError("optimizer.rho", -1, "must be >= 0")
        return SimpleNamespace(overrides=words, directory=master / words[0])

    monkeypatch.setattr(plan, "compose_job", compose_job)


def test_the_first_job_is_told_of_once_before_the_others_are_composed(monkeypatch, tmp_path):
    happened = []
    fake_jobs(monkeypatch, happened)
    plans = plan.compose_all(None, tmp_path, [["a"], ["b"], ["a"]], lambda first: happened.append(first.directory.name))
    assert happened == ["a", "a", "b", "a"]
    assert len(plans) == 2


def test_a_job_that_cannot_be_used_starts_nothing(monkeypatch, tmp_path):
    happened = []
    fake_jobs(monkeypatch, happened)
    with pytest.raises(SweepFailed):
        plan.compose_all(None, tmp_path, [["bad"]], lambda first: happened.append("started"))
    assert happened == ["bad"]


@pytest.mark.parametrize(("finished", "prepared"), [(False, 1), (True, 0)])
def test_a_sweep_prepares_its_launcher_unless_its_first_run_has_finished(monkeypatch, tmp_path, finished, prepared):
    Plugins.instance()  # Hydra loads the module of its own sweeper anew: ours has to be imported after Hydra's search
    from fsamlab.sweep import sweeper

    calls = []
    first = SimpleNamespace(directory=tmp_path)
    if finished:
        (tmp_path / "summary.json").touch()

    def planned(self, arguments, on_first):
        on_first(first)
        raise SweepFailed("enough")

    monkeypatch.setattr(sweeper.CheckedSweeper, "plan", planned)
    monkeypatch.setattr(sweeper, "checked", lambda launcher: SimpleNamespace(prepare=lambda: calls.append(1)))
    one = sweeper.CheckedSweeper(None)
    one.config, one.launcher = SimpleNamespace(), None
    with pytest.raises(SweepFailed, match="enough"):
        one.sweep([])
    assert len(calls) == prepared


def test_the_server_starts_with_its_threads_and_with_its_signals_held_back(monkeypatch):
    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(pool.forkserver, "set_forkserver_preload", seen.append)
    monkeypatch.setattr(pool.resource_tracker, "ensure_running", lambda: None)
    monkeypatch.setattr(
        pool.forkserver, "ensure_running", lambda: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    )
    pool.start_server(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert seen[0] == ["fsamlab.sweep.preload"]
    assert set(pool.HELD) <= seen[1]
    assert not set(pool.HELD) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_server_whose_starter_has_ended_leaves(monkeypatch):
    from fsamlab.sweep import preload

    parents, imported = iter([5, 5, 1]), []
    monkeypatch.setattr(preload.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(
        preload, "import_module", lambda name: imported.append((name, signal.getsignal(signal.SIGINT), gc.isenabled()))
    )
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        preload.load()
    assert imported == [("torch", signal.SIG_IGN, False), ("torch._dynamo", signal.SIG_IGN, False)]
    assert signal.getsignal(signal.SIGINT) == before
    assert gc.isenabled()
    gc.unfreeze()  # what the import of the module has frozen
