"""What the commands read of a sweep of many runs: each file once, and of YAML only what is new."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from support.made_runs import make_run, make_sweep
from support.reference_runs import put_run

from fsamlab.command import main
from fsamlab.storage import reading, yaml_blocks

METHODS, SEEDS = ("sgd", "sam", "fsam"), 10


@pytest.fixture
def sweep(tmp_path):
    root = make_sweep(tmp_path / "made", METHODS, SEEDS)
    make_run(root / "sam-s99", "sam", 99, status="failed", exception="Diverged: loss is nan")
    return root


@pytest.fixture
def read(monkeypatch):
    """Counts how often files of a name are read as a whole."""
    names = Counter()
    real = reading.read_bytes
    monkeypatch.setattr(reading, "read_bytes", lambda path, *rest: names.update([path.name]) or real(path, *rest))
    return names


@pytest.mark.usefixtures("capsys")
def test_collect_reads_a_file_once_and_parses_what_is_new(sweep, read, monkeypatch):
    parsed, real = [], yaml.load
    monkeypatch.setattr(yaml, "load", lambda text, Loader: parsed.append(text) or real(text, Loader))
    yaml_blocks._entry.cache_clear()
    assert main.main(["collect", str(sweep)]) == 0
    number = len(METHODS) * SEEDS + 1
    assert read == {name: number for name in ("config.yaml", "status.json", "summary.json", "overrides.yaml")}
    assert len(parsed) == len(set(parsed)) == SEEDS + 1 + len(METHODS) + 3  # seeds, optimizers; name, model, data


@pytest.mark.usefixtures("capsys")
def test_status_reads_the_status_alone_of_a_run_with_a_record(sweep, read):
    for command in (["status", str(sweep)], ["status", str(sweep), "--json"]):
        read.clear()
        assert main.main(command) == 1  # one run failed
        number = len(METHODS) * SEEDS + 1
        study = {} if "--json" in command else {"tune.json": 1}  # a study's record is looked for in each sweep
        assert read == {"status.json": number, "overrides.yaml": number, **study}  # without a record of the launch


@pytest.mark.usefixtures("capsys")
def test_compare_reads_the_rows_of_runs_beside_a_reference_alone_and_once(sweep, read, monkeypatch):
    near = [put_run(sweep / f"sam-cifar-s{seed}", "optimizer=sam", seed=seed) for seed in (0, 1)]
    opened, real = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *rest, **named: opened.append(path) or real(path, *rest, **named))
    assert main.main(["compare", str(sweep)]) == 0
    assert [path for path in opened if path.name == "metrics.jsonl"] == [run / "metrics.jsonl" for run in near]
    number = len(METHODS) * SEEDS + 1 + len(near)
    assert read["config.yaml"] == read["status.json"] / 2 == number
    assert read["env.json"] == 0


def test_compare_reads_the_rows_of_copies_to_know_the_whole_one(tmp_path, capsys):
    broken, _ = (make_run(tmp_path / name / "s0", run_id="sam-s0-0123") for name in "ab")
    (broken / "metrics.jsonl").write_text("{broken\n{}\n")
    assert main.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 4
    said = capsys.readouterr().out
    assert f"a run that was found twice, {broken}: cannot be read in full: " in said
    assert f"not shown: {broken}" in said
