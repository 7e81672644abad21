"""A sweep of a regression on the screen, in the table and on the page: its error everywhere, an accuracy nowhere."""

import csv
import json

import pytest
from support.pages import data_of, written
from support.runs import compose_diabetes

from fsamlab.command.main import main
from fsamlab.config.identity import run_id
from fsamlab.results.loading import load
from fsamlab.results.summary import print_settings
from fsamlab.run import run
from fsamlab.terminal.text import console


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    for optimizer in ("sgd", "sam"):
        for seed in (0, 1):
            config = compose_diabetes(f"optimizer={optimizer}", f"seed={seed}", "train.epochs=2", "model.width=8")
            run(config, root / run_id(config))
    return root


def shown(value):
    return f"{value:.5g}"


def test_status_collect_table_and_page_show_the_error(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    study = load(sweep)
    ends = list(study.runs["final/test/mse"])
    assert main(["status", str(sweep)]) == 0
    status = capsys.readouterr().out
    assert "test mse" in status
    assert all(shown(end) in status for end in ends)
    assert main(["collect", str(sweep)]) == 0
    capsys.readouterr()
    with (sweep / "results.csv").open() as f:
        lines = list(csv.DictReader(f))
    assert [float(line["final/test/mse"]) for line in lines] == ends
    assert {line["task/headline"] for line in lines} == {"mse"}
    print_settings(study, console())
    table = capsys.readouterr().out
    assert "Test mean squared error, lower is better" in table
    page, text = written(sweep)
    assert "mse: test, at the end" in text.text
    assert data_of(page)["results"] == ["best/test/mse", "final/test/mse"]
    assert not any("acc1" in said for said in (status, table, *lines[0]))
    assert '"test/acc1"' not in page


def test_a_run_that_goes_on_says_its_headline_from_its_first_row(tmp_path, monkeypatch, capsys):
    config = compose_diabetes("train.epochs=1", "model.width=8", "train.max_steps=2")
    run(config, tmp_path / "run")
    for name in ("summary.json", "checkpoints/last.pt"):
        (tmp_path / "run" / name).unlink()
    assert main(["status", str(tmp_path)]) == 0
    assert "test mse" in capsys.readouterr().out
    assert load(tmp_path).headline.name == "mse"


def test_a_run_that_resumes_with_another_headline_records_the_new_one(tmp_path):
    first = compose_diabetes("train.epochs=2", "train.keep_state=true", "task.headline=r2")
    run(first, tmp_path / "run")
    assert load(tmp_path).headline.name == "r2"
    (tmp_path / "run" / "summary.json").unlink()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    (tmp_path / "run" / "status.json").write_text(json.dumps({**status, "status": "preempted"}))
    summary = run(compose_diabetes("train.epochs=2", "train.keep_state=true"), tmp_path / "run")
    assert summary["task/headline"] == "mse"
    assert load(tmp_path).headline.name == "mse"
