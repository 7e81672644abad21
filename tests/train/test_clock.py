"""The seconds of a run: what is counted, the time of a step, and the state."""

import pytest

from fsamlab.train import clock
from fsamlab.train.clock import Clock


@pytest.fixture
def seconds(monkeypatch):
    """Replace the machine's clock; the test moves it by hand."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    return now


def test_only_work_that_ends_without_an_error_is_counted(seconds):
    def fail():
        seconds[0] += 100.0
        raise KeyError

    counted = Clock()
    with counted.evaluating():
        seconds[0] += 2.0
    with counted.measuring():
        seconds[0] += 5.0
    with pytest.raises(KeyError), counted.evaluating():
        fail()
    counted.add_step(1.5, ends_epoch=True)
    assert (counted.train, counted.evaluation, counted.diagnostics, counted.total) == (1.5, 2.0, 5.0, 8.5)


def test_the_time_of_a_step_is_a_mean_at_first_and_then_a_median_over_whole_epochs():
    counted = Clock()
    assert counted.step_ms(0, 2) == 0.0
    counted.add_step(1.0, ends_epoch=False)
    assert counted.step_ms(1, 2) == 1000.0
    for slow in (3.0, 1.0, 80.0):  # two steps in each epoch; the machine is busy in the third
        counted.add_step(slow, ends_epoch=True)
        counted.add_step(1.0, ends_epoch=False)
    assert counted.epochs == [4.0, 2.0, 81.0, 1.0]
    assert counted.step_ms(7, 2) == 2000.0


def test_a_restored_clock_continues_to_count():
    before, after = Clock(), Clock()
    before.add_step(2.0, ends_epoch=True)
    after.load_state_dict({**before.state_dict(), "model": {}})
    after.add_step(3.0, ends_epoch=False)
    assert after.state_dict() == {
        "train_seconds": 5.0,
        "eval_seconds": 0.0,
        "diagnostics_seconds": 0.0,
        "epoch_seconds": [2.0, 3.0],
    }
    assert before.epochs == [2.0, 0.0]
