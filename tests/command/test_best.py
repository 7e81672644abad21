"""`fsamlab best`: validation data choose each method's setting, and a file starts the further seeds."""

import json

import pytest
import yaml
from hydra import compose
from support.runs import TINY, compose_tiny

from fsamlab.command import best as command
from fsamlab.command.main import main
from fsamlab.config import to_plain, typed
from fsamlab.config.compose import composing, jobs_of
from fsamlab.config.experiment import Experiment
from fsamlab.config.identity import run_id
from fsamlab.sweep.tuning.record import Group
from fsamlab.sweep.tuning.record import Study as TuningStudy

CONFIGS = {}  # words -> configuration: each is composed once


def put(sweep, *words, seed=0, val=0.5, best=None, status="finished"):
    """Write a run without a training; its test accuracy would choose the opposite."""
    words = (*words, f"seed={seed}")
    if words not in CONFIGS:
        CONFIGS[words] = compose_tiny("name=s", "data.val_size=20", *words)
    config = CONFIGS[words]
    directory = sweep / run_id(config)
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(to_plain(config)))
    (directory / "status.json").write_text(json.dumps({"status": status, "run_id": directory.name}))
    values = {"final/test/acc1": 1 - (val or 0), "best/test/acc1": 1 - (val or 0), "cost/steps": 3}
    if val is not None:
        values |= {"final/val/acc1": val, "best/val/acc1": val if best is None else best, "final/val/loss": val}
    if status == "finished":
        (directory / "summary.json").write_text(json.dumps(values))
    return directory


SAM = {0.05: 0.6, 0.1: 0.9, 0.2: 0.8}


@pytest.fixture
def sweep(tmp_path):
    for rho, val in SAM.items():
        for seed in (0, 1):
            put(tmp_path / "tune", "optimizer=sam", f"optimizer.rho={rho}", seed=seed, val=val + 0.02 * seed)
    put(tmp_path / "tune", "optimizer=sgd", val=0.4)
    return tmp_path / "tune"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "PROJECT_ROOT", tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def quick(monkeypatch):
    """Compose nothing: for tests of the choice, not of the file."""
    monkeypatch.setattr(command, "experiment_of", lambda config: Experiment({"optimizer": config.optimizer.name}, {}))


def told(capsys, *words):
    """Return the object of --json, after a call that ends well."""
    assert main(["best", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def by_name(found):
    return {one["name"]: one for one in found["methods"]}


def test_validation_chooses_and_the_file_says_from_what(sweep, capsys):
    assert main(["best", str(sweep)]) == 0
    sgd, sam = capsys.readouterr().out.split("# tune_sam.yaml\n")
    assert sgd.startswith("# tune_sgd.yaml\n# @package _global_\n")
    assert "one setting was tried, so there was nothing to choose" in sgd
    assert "# SAM with optimizer.rho 0.1, chosen by validation data (fsamlab best).\n" in sam
    assert "tune: 3 settings, seeds 0, 1.\n" in sam
    assert (
        "# val/acc1 91.00 ± 1.41 % over 2 seeds, at the last epoch; the next one, optimizer.rho 0.2: 81.00 %.\n" in sam
    )
    assert "the smallest value" not in sam
    assert "python launch.py -m experiment=tune_sam 'seed=range(2,12)'" in sam
    body = yaml.safe_load(sam)
    assert body["name"] == "tune_sam"
    assert {"override /optimizer": "sam"} in body["defaults"]
    assert body["optimizer"] == {"rho": 0.1}


def test_the_written_files_train_the_same_runs_with_fresh_seeds(sweep, project, capsys):
    assert main(["best", str(sweep), "--sweep", "final", "--seeds", "3"]) == 0
    assert "next: python launch.py -m +sweeps=final" in capsys.readouterr().out
    text = (project / "sweeps" / "final.yaml").read_text()
    assert "2 methods x 3 seeds: 6 runs" in text
    body = yaml.safe_load(text)
    with composing() as context:
        jobs = jobs_of(context.config_loader, body["hydra"]["sweeper"], [])
        place = f"hydra.searchpath=['file://{project / 'conf'}']"
        configs = [typed(compose("config", overrides=[place, *job])) for job in jobs]
    assert {config.seed for config in configs} == {2, 3, 4}
    setting = {run_id(config).replace(f"-s{config.seed}-", "-") for config in configs}
    tuned = [CONFIGS["optimizer=sam", "optimizer.rho=0.1", "seed=0"], CONFIGS["optimizer=sgd", "seed=0"]]
    assert setting == {run_id(config).replace("-s0-", "-") for config in tuned}


def test_no_file_is_overwritten(sweep, quick, project, tmp_path, capsys):
    words = ["best", str(sweep), "--write", str(tmp_path / "files")]
    assert main(words) == 0
    assert main(words) == 0  # the same content
    changed = tmp_path / "files" / "tune_sgd.yaml"
    (tmp_path / "files" / "tune_sam.yaml").unlink()
    changed.write_text("mine")
    capsys.readouterr()
    assert main(words) == 1
    assert "tune_sgd.yaml: is there already, with another content" in capsys.readouterr().err
    assert changed.read_text() == "mine"
    assert not (tmp_path / "files" / "tune_sam.yaml").exists()
    assert main([*words, "--sweep", "quickstart"]) == 1
    assert "--sweep=quickstart: is the name of a sweep that is there already" in capsys.readouterr().err


def test_the_chosen_value_at_the_end_of_the_grid_is_said(sweep, quick, capsys):
    for seed in (0, 1):
        put(sweep, "optimizer=sam", "optimizer.rho=0.4", seed=seed, val=0.95)
    (note,) = by_name(told(capsys, sweep))["tune_sam"]["notes"]
    assert note == "optimizer.rho 0.4 is the largest value tried: extend the grid, a better one may lie beyond"


def test_the_other_epoch_and_another_metric_choose_for_themselves(sweep, quick, capsys):
    for seed in (0, 1):
        put(sweep, "optimizer=sam", "optimizer.rho=0.4", seed=seed, val=0.1, best=0.99)
    last = by_name(told(capsys, sweep))["tune_sam"]
    assert last["setting"] == {"optimizer.rho": 0.1}
    assert last["notes"] == ["at the best epoch validation would choose optimizer.rho 0.4"]
    assert last["runner_up"]["setting"] == {"optimizer.rho": 0.2}
    assert by_name(told(capsys, sweep, "--at", "best"))["tune_sam"]["setting"] == {"optimizer.rho": 0.4}
    loss = by_name(told(capsys, sweep, "--metric", "val/loss"))["tune_sam"]  # lower is better
    assert (loss["column"], loss["setting"]) == ("final/val/loss", {"optimizer.rho": 0.4})


def test_the_objective_of_a_study_chooses_until_another_is_said(tmp_path, quick, capsys):
    for name, metric in (("one", "best/val/acc1"), ("two", "final/val/loss")):
        put(tmp_path / name, "optimizer=sam", "optimizer.rho=0.05", val=0.9, best=0.91)
        put(tmp_path / name, "optimizer=sam", "optimizer.rho=0.1", val=0.6, best=0.95)
        TuningStudy({}, [Group([], [], {}, [2], "", 2, metric=metric)]).write(tmp_path / name)
    assert told(capsys, tmp_path / "one")["methods"][0]["setting"] == {"optimizer.rho": 0.1}
    assert told(capsys, tmp_path / "one", "--at", "last")["methods"][0]["setting"] == {"optimizer.rho": 0.05}
    assert told(capsys, tmp_path / "two")["at"] == "last"
    assert told(capsys, tmp_path / "two")["methods"][0]["column"] == "final/val/loss"
    assert main(["best", str(tmp_path / "one"), str(tmp_path / "two")]) == 1
    said = capsys.readouterr().err
    assert "2 studies: are judged by best/val/acc1 and final/val/loss; say which one chooses: --metric best/" in said
    assert told(capsys, tmp_path / "one", tmp_path / "two", "--metric", "val/acc1")["at"] == "last"


def test_runs_of_a_study_are_judged_as_the_study(tmp_path, quick, capsys):
    for rho, val, best in ((0.05, 0.9, 0.91), (0.1, 0.6, 0.95)):
        put(tmp_path / "one", "optimizer=sam", f"optimizer.rho={rho}", val=val, best=best)
    TuningStudy({}, [Group([], [], {}, [2], "", 2, metric="best/val/acc1")]).write(tmp_path / "one")
    choice = told(capsys, *sorted((tmp_path / "one").glob("sam*")))
    assert (choice["at"], choice["methods"][0]["setting"]) == ("best", {"optimizer.rho": 0.1})


def test_a_metric_may_name_its_epoch(sweep, quick, capsys):
    put(sweep, "optimizer=sam", "optimizer.rho=0.4", val=0.5, best=0.6)
    assert told(capsys, sweep, "--metric", "best/val/acc1")["at"] == "best"
    assert told(capsys, sweep, "--metric", "final/val/acc1", "--at", "last")["at"] == "last"
    assert main(["best", str(sweep), "--metric", "best/val/acc1"]) == 0
    assert "at the best epoch" in capsys.readouterr().out
    assert main(["best", str(sweep), "--metric", "best/val/acc1", "--at", "last"]) == 1
    assert "--at=last: is not the epoch of --metric best/val/acc1" in capsys.readouterr().err


def test_runs_that_have_not_finished_do_not_count(sweep, quick, capsys):
    put(sweep, "optimizer=sam", "optimizer.rho=0.4", val=0.99, status="paused")
    put(sweep, "optimizer=sam", "optimizer.rho=0.4", seed=1, val=0.99, status="failed")
    put(sweep, "optimizer=fsam", val=0.99, status="failed")
    found = told(capsys, sweep)
    assert by_name(found)["tune_sam"]["setting"] == {"optimizer.rho": 0.1}
    assert by_name(found)["tune_sam"]["settings_tried"] == 3
    assert sorted(found["notes"][0].split(": ")[1].split(", ")) == ["1 paused", "2 failed"]
    assert found["notes"][1] == "no run has finished of F-SAM"


def test_only_seeds_that_all_settings_have_choose(sweep, quick, capsys):
    put(sweep, "optimizer=sam", "optimizer.rho=0.4", seed=0, val=0.95)
    put(sweep, "optimizer=sam", "optimizer.rho=0.05", seed=7, val=1.0)
    sam = by_name(told(capsys, sweep))["tune_sam"]
    assert (sam["setting"], sam["seeds"]) == ({"optimizer.rho": 0.4}, [0])
    assert "seeds that do not count: 1, 7; 3 of 4 settings have not finished with them" in sam["notes"]


def test_a_tie_takes_the_smaller_value_and_says_so(sweep, quick, capsys):
    for seed in (0, 1):
        put(sweep, "optimizer=sam", "optimizer.rho=0.15", seed=seed, val=0.9 + 0.02 * seed)
    sam = by_name(told(capsys, sweep))["tune_sam"]
    assert sam["setting"] == {"optimizer.rho": 0.1}
    assert sam["notes"] == ["the same mean has optimizer.rho 0.15: the first one was taken"]


def test_data_are_compared_and_not_chosen(sweep, quick, capsys):
    for rho, val in ((0.05, 0.99), (0.1, 0.98)):
        put(sweep, "optimizer=sam", f"optimizer.rho={rho}", "data.label_noise=0", val=val)
    found = by_name(told(capsys, sweep))
    assert found["tune_sam_label_noise0_0"]["setting"] == {"optimizer.rho": 0.05}
    assert found["tune_sam_label_noise0_2"]["setting"] == {"optimizer.rho": 0.1}


def test_other_keys_tell_the_methods_apart(sweep, quick, capsys):
    (only,) = told(capsys, sweep, "--by", "model")["methods"]
    assert (only["name"], only["setting"]["optimizer.name"], only["seeds"]) == ("tune_small_cnn", "sam", [0])
    found = by_name(told(capsys, sweep, "--by", "optimizer", "optimizer.rho"))
    assert found["tune_sam_rho0_2"]["settings_tried"] == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--metric", "test/acc1"], "--metric=test/acc1: must be a metric of the validation data"),
        (["--metric", "val/acc9"], "--metric=val/acc9: is no metric of these runs; the runs have val/acc1, val/loss"),
        (["--by", "optimiser"], "--by=optimiser: is no key of the runs' settings"),
        (["--sweep", "a/b"], "--sweep=a/b: must be a name of letters, digits"),
        (["--seeds", "0"], "--seeds=0: must be"),
    ],
)
def test_what_cannot_be_used_is_one_line(sweep, quick, project, capsys, words, line):
    assert main(["best", str(sweep), *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1
    assert not project.exists()


def test_without_a_choice_the_reason_is_one_line(tmp_path, quick, capsys):
    for number, (runs, line) in enumerate(
        [
            ([(0.1, 0, None), (0.2, 0, None)], "optimizer.name=sam: no run has final/val/acc1; data.val_size holds"),
            (
                [(0.1, 0, 0.5), (0.2, 1, 0.5)],
                "optimizer.name=sam: no seed has finished runs with all values of optimizer.rho",
            ),
        ]
    ):
        for rho, seed, val in runs:
            put(tmp_path / str(number), "optimizer=sam", f"optimizer.rho={rho}", seed=seed, val=val)
        assert main(["best", str(tmp_path / str(number))]) == 1
        assert capsys.readouterr().err.startswith(f"error: {line}")
    put(tmp_path / "none", "optimizer=sam", status="failed")
    assert main(["best", str(tmp_path / "none")]) == 1
    assert "none has finished" in capsys.readouterr().err


def test_the_tiny_setting_is_what_the_file_holds(sweep, capsys):
    """Nothing but what differs from the options: the words that the runs were started with."""
    words = {w.partition("=")[0]: w.partition("=")[2] for w in TINY} | {"data.val_size": "20", "optimizer.rho": "0.1"}
    changes = by_name(told(capsys, sweep))["tune_sam"]["changes"]
    flat = {f"{a}.{b}": c for a, below in changes.items() for b, c in below.items()}
    augment = flat.pop("data.augment")
    assert augment == {"flip": True, "crop_padding": 1}
    expected = {k for k in words if k not in ("data", "tracker") and not k.startswith("data.augment")}
    assert expected >= flat.keys() >= {"model.width", "data.num_samples", "train.epochs", "optimizer.rho"}
