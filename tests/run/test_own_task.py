"""A user's own task by task.import_path: trained, chosen by its own headline, measured; wrong ones are refused."""

import pytest
from support.runs import compose_diabetes

from fsamlab.config import ConfigError
from fsamlab.run import run
from fsamlab.rundir.inputs import look
from fsamlab.rundir.rows import read_rows


def compose_own(name, *overrides):
    return compose_diabetes(f"task.import_path=support.foreign_task:{name}", *overrides)


def test_an_own_task_is_trained_measured_and_named_in_the_summary(tmp_path):
    config = compose_own("huber", "task.options.delta=0.5", "optimizer=fsam", "train.save_best=true")
    summary = run(config, tmp_path / "run")
    rows = [row for row in read_rows(tmp_path / "run") if "val/hits" in row]
    hits = [row["val/hits"] for row in rows]
    assert summary["best/val/hits"] == max(hits)
    assert summary["best/step"] == rows[hits.index(max(hits))]["step"]
    assert {k: v for k, v in summary.items() if k.startswith("task/")} == {
        "task/headline": "hits",
        "task/higher_is_better": True,
        "task/title": "hits within 0.5",
        "task/percent": True,
    }
    assert summary["diagnostics/loss"] == "huber"
    assert summary["final/sharpness/one_step"] > 0
    assert "task.import_path" in look(config)  # the code of the task is among the recorded inputs


def test_the_parameters_of_an_own_task_change_the_loss(tmp_path):
    small = run(compose_own("huber", "task.options.delta=0.1"), tmp_path / "a")
    assert small["final/train/loss"] < 0.5 * run(compose_own("huber"), tmp_path / "b")["final/train/loss"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("huber", ["task.options.rho=1"], r"cannot be called with \(rho=\)"),
        ("no_task", [], r"returned a Linear, not a fsamlab.task.task.Task"),
        ("wrong_headline", [], r"headline 'accuracy' of the task is no metric of it; its metrics are hits, loss"),
        ("no_name", [], r"the task has no name; see docs/adding_a_task.md"),
        ("absent", [], r"support.foreign_task has no function absent"),
    ],
)
def test_a_wrong_task_is_refused_in_one_line(tmp_path, name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        run(compose_own(name, *options), tmp_path / "run")
    assert str(caught.value).startswith("task.import_path=")
    assert "\n" not in str(caught.value)
