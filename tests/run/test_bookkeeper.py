"""How often a run tells of its rows in status.json and waits for the disk, as counts."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.runs import compose_tiny

from fsamlab.metrics import CLASSIFICATION
from fsamlab.run import bookkeeper, run
from fsamlab.run.bookkeeper import Bookkeeper
from fsamlab.tracking import NullTracker

FEW = ("data.num_samples=96", "data.val_size=10", "data.test_size=10", "data.batch_size=16", "diagnostics=off")


def told(monkeypatch, rows, last_step):
    """Return the steps of the rows that status.json tells of; `rows` are (second, step, whether it is evaluated)."""
    now, steps = [0.0], []

    def set_status(status, **fields):
        steps.append(fields["step"])

    monkeypatch.setattr(bookkeeper, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trainer = SimpleNamespace(headline=CLASSIFICATION, last_step=last_step)
    record = SimpleNamespace(append=lambda row: None, set_status=set_status, directory=Path("nowhere"))
    keeper = Bookkeeper(trainer, SimpleNamespace(), record, NullTracker(), SimpleNamespace(), SimpleNamespace())
    for second, step, evaluated in rows:
        now[0] = second
        keeper.row({"step": step, "epoch": 0.0, "train/loss": 1.0, **({"val/acc1": 0.5} if evaluated else {})})
    return steps


def test_a_fast_run_tells_of_an_evaluation_a_second_and_of_the_last_one(monkeypatch):
    rows = [(step / 5, step, True) for step in range(1, 15)]
    assert told(monkeypatch, rows, last_step=14) == [1, 7, 13, 14]


def test_a_row_of_the_training_does_not_hide_the_evaluation_after_it(monkeypatch):
    rows = [(0.0, 10, False), (2.0, 20, False), (2.1, 20, True), (2.5, 30, False), (3.5, 40, False), (3.6, 40, True)]
    assert told(monkeypatch, rows, last_step=100) == [10, 20, 20, 40, 40]


@pytest.mark.long
def test_a_run_waits_for_the_disk_as_often_whatever_its_number_of_epochs(tmp_path, monkeypatch):
    number, fsync = [0], os.fsync

    def count(fd):
        number[0] += 1
        fsync(fd)

    monkeypatch.setattr(os, "fsync", count)
    monkeypatch.setattr(bookkeeper, "STATUS_SECONDS", 1e6)
    found = []
    for epochs in (2, 6):
        number[0] = 0
        run(compose_tiny(*FEW, f"train.epochs={epochs}"), tmp_path / str(epochs))
        found.append(number[0])
    assert found[0] == found[1] <= 19
