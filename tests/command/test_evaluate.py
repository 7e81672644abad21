"""`fsamlab evaluate`: values against a plain loop, rows, refusals, and where the values are shown."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from support.made_data import pictures, write_cifar_c, write_imagenet_c
from support.runs import ROOT, build_trainer, compose_bare, compose_diabetes, compose_tiny

from fsamlab.command.evaluate import evaluate_runs, typed
from fsamlab.command.evaluation import evaluated
from fsamlab.command.main import main
from fsamlab.command.measurement import measure_run
from fsamlab.config import ConfigError, CorruptedConfig, EvaluateConfig, typed_evaluate
from fsamlab.config.compose import register
from fsamlab.config.corrupted import EXTRA, STANDARD
from fsamlab.config.data import EVALUATION_ONLY
from fsamlab.results.collect import collect, read_run_rows
from fsamlab.run import run
from fsamlab.rundir import checkpoint
from fsamlab.rundir.measurements import latest_evaluations, read_evaluations, read_measurements
from fsamlab.tracking.local_run import read_run

LIKE_CIFAR = (
    *("data.image_size=32", "data.channels=3", "data.num_samples=80", "data.batch_size=20", "data.test_size=10"),
    *("data.val_size=10", "data.mean=[0.5,0.4,0.3]", "data.std=[0.1,0.2,0.3]", "model.width=2", "diagnostics=off"),
    *("train.save_best=true", "train.epochs=1"),
)
NAMES = ("fog", "snow")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run, and CIFAR-10-C with two corruptions."""
    root = tmp_path_factory.mktemp("evaluate")
    run(compose_tiny("optimizer=fsam", *LIKE_CIFAR), root / "r")
    labels = write_cifar_c(root / "CIFAR-10-C", NAMES)
    return root, labels


@pytest.fixture
def clean(place):
    """The same without what earlier tests evaluated."""
    shutil.rmtree(place[0] / "r" / "evaluations", ignore_errors=True)
    return place[0] / "r"


def config_of(root, **fields):
    data = CorruptedConfig(name="cifar10c", root=str(root), corruptions=list(NAMES), eval_batch_size=7)
    return EvaluateConfig(root=str(root), run="r", device="cpu", data=data, **fields)


def evaluate(directory, **fields):
    (directory / "evaluations").mkdir(exist_ok=True)
    return measure_run(directory, config_of(directory.parent, **fields), evaluated)


def test_accuracy_loss_and_ece_are_those_of_a_plain_loop(place, clean):
    root, labels = place
    evaluate(clean)
    (row,) = read_evaluations(clean)
    model = build_trainer(compose_tiny("optimizer=fsam", *LIKE_CIFAR)).model.eval()
    model.load_state_dict(checkpoint.load(clean / "checkpoints" / "last.pt")["model"])
    answers = set()
    for name in NAMES:
        raw = np.load(root / "CIFAR-10-C" / f"{name}.npy")
        for severity in range(5):
            images = raw[20 * severity : 20 * (severity + 1)].transpose(0, 3, 1, 2) / 255
            images = (images - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.1, 0.2, 0.3])[:, None, None]
            with torch.no_grad():
                p = model(torch.from_numpy(images).float()).double().softmax(1).numpy()
            answers |= set(p.argmax(1))
            found = row["by_severity"][name][severity]
            assert found["acc1"] == (p.argmax(1) == labels).mean()
            assert found["loss"] == pytest.approx(-np.log(p[np.arange(20), labels]).mean(), rel=1e-5)
        mean = np.mean([one["acc1"] for one in row["by_severity"][name]])
        assert row[f"cifar10c/{name}/acc1"] == pytest.approx(mean)
        assert row[f"cifar10c/{name}/ece"] == pytest.approx(np.mean([one["ece"] for one in row["by_severity"][name]]))
    assert len(answers) > 1  # else a constant network would do
    assert (row["data"], row["checkpoint"], row["cifar10c/checkpoint"]) == ("cifar10c", "last", "last")
    assert (row["step"], row["cifar10c/num_samples"]) == (3, 20)
    assert "cifar10c/acc1" not in row  # the mean over fifteen corruptions


def test_evaluating_again_is_no_work_and_other_settings_are_another_file(clean):
    first = evaluate(clean)
    text = first.read_text()
    assert evaluate(clean) == first
    assert first.read_text() == text
    assert evaluate(clean, force=True) == first
    again, before = json.loads(first.read_text()), json.loads(text)
    assert {k for k in again if again[k] != before[k]} == {"measured"}
    best = evaluate(clean, checkpoint="best")
    assert best.name.startswith("best-step3-cifar10c-")
    fog = replace(
        config_of(clean.parent), data=CorruptedConfig(name="cifar10c", root=str(clean.parent), corruptions=["fog"])
    )
    assert measure_run(clean, fog, evaluated) not in (first, best)
    # neither batch size nor workers change a value
    larger = replace(fog, data=replace(fog.data, eval_batch_size=1000, num_workers=0))
    assert larger.settings() == fog.settings()


def test_an_interrupted_evaluation_continues_with_the_missing_corruptions(clean, monkeypatch):
    from fsamlab.train.trainer import Trainer

    real, calls = Trainer.evaluate, []

    def stopping(self, source):
        calls.append(source)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(self, source)

    monkeypatch.setattr(Trainer, "evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(clean)
    assert read_evaluations(clean) == []
    evaluate(clean)
    assert len(calls) == 7 + 5  # fog was finished, snow was not
    resumed = read_evaluations(clean)[0]["by_severity"]
    monkeypatch.undo()
    evaluate(clean, force=True)
    assert read_evaluations(clean)[0]["by_severity"] == resumed


def test_where_the_values_are_shown(clean):
    before = (collect([clean]), read_run_rows(clean).all)
    evaluate(clean)
    row = collect([clean]).iloc[0]
    assert row["evaluated/cifar10c/fog/acc1"] == latest_evaluations(clean)["cifar10c/fog/acc1"]
    assert row["evaluated/cifar10c/checkpoint"] == "last"
    same = row.drop([k for k in row.index if k.startswith("evaluated/")])
    pd.testing.assert_series_equal(same, before[0].iloc[0])
    assert read_run_rows(clean).all == before[1]  # an evaluation is no point of a curve
    assert read_measurements(clean) == []
    assert read_run(clean, None, None, 1.0).summary["evaluated/cifar10c/snow/ece"] == row["evaluated/cifar10c/snow/ece"]


def test_the_last_evaluated_step_of_each_set_counts(clean):
    folder = clean / "evaluations"
    folder.mkdir()
    rows = [
        {"step": 1, "measured": "9", "data": "a", "a/acc1": 0.1, "a/old": 1.0},
        {"step": 2, "measured": "1", "data": "a", "a/acc1": 0.2, "a/ece": 0.5},
        {"step": 2, "measured": "2", "data": "a", "a/acc1": 0.3},
        {"step": 1, "measured": "3", "data": "b", "b/acc1": 0.4},
    ]
    for i, row in enumerate(rows):
        (folder / f"{i}.jsonl").write_text(json.dumps({"epoch": 1.0, **row}) + "\n")
    assert latest_evaluations(clean) == {"a/acc1": 0.3, "a/ece": 0.5, "b/acc1": 0.4}


@pytest.mark.parametrize("name", EVALUATION_ONLY)
def test_the_option_of_a_set_bears_its_name_and_names_its_files(name, tmp_path):
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        composed = compose("evaluate", overrides=[f"data={name}", f"root='{tmp_path}'", "run=r", "data.root=here"])
    assert typed_evaluate(composed).data.name == name
    with pytest.raises(ConfigError, match=f"data.root=here: {name}: .* not found"):
        typed(composed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "data=null: must be given: data=cifar10c"),
        (["data=digits"], "data=digits: has no test part of its own"),
        (["data=cifar10c", "data.mean=[0.5]"], "data.mean=[0.5]: is taken from each run; leave it out"),
        (["data=image_folder", "data.image_size=9"], "data.image_size=9: is taken from each run; leave it out"),
        (["data=cifar10c", "data.batch_size=9"], "data.batch_size=9: has no effect in an evaluation; leave it out"),
        (
            ["data=cifar10c", "data.root=nowhere"],
            "data.root=nowhere: cifar10c: labels.npy, gaussian_noise, shot_noi",
        ),
        (["data=image_folder", "data.root=nowhere"], "nowhere/val is not there; it must hold one folder per class"),
        (["data=cifar100"], "data=cifar100: has 100 classes; r was trained on synthetic with 10"),
        (["data=cifar10", "checkpoint=first"], "checkpoint"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_job_starts(clean, words, said):
    with pytest.raises((ConfigError, HydraException)) as e:
        evaluate_runs([clean], words)
    assert said in str(e.value)
    assert "\n" not in str(e.value)
    assert not (clean / "evaluations").exists()


def test_a_regression_and_a_missing_checkpoint_are_refused(tmp_path, place):
    run(compose_diabetes("train.epochs=1"), tmp_path / "t")
    with pytest.raises(ConfigError, match="data=cifar10: has classes; t was trained on diabetes, a regression"):
        evaluate_runs([tmp_path / "t"], ["data=cifar10"])
    with pytest.raises(ConfigError, match=r"checkpoint=best: .* does not exist"):
        evaluate_runs([tmp_path / "t"], ["data=cifar10", "checkpoint=best"])


@pytest.mark.long
def test_the_command_on_two_runs_and_cifar_c(tmp_path, capfd):

    for seed in (0, 1):
        run(compose_tiny("optimizer=sgd", f"seed={seed}", *LIKE_CIFAR), tmp_path / "s" / f"r{seed}")
    write_cifar_c(tmp_path / "data" / "CIFAR-10-C", (*STANDARD, *EXTRA), per_severity=4)
    words = [str(tmp_path / "s"), "data=cifar10c", f"data.root={tmp_path / 'data'}", "device=cpu"]
    assert main(["evaluate", *words]) == 0
    out = capfd.readouterr().out
    assert "Evaluated on cifar10c" in out
    assert out.count("last, step 3") == 2
    assert main(["evaluate", str(tmp_path / "s" / "r0"), *words[1:]]) == 0
    out = capfd.readouterr().out
    assert "mean of the 15 standard" in out
    assert "mean of the 4 extra" in out
    frame = collect(sorted((tmp_path / "s").iterdir()))
    assert frame["evaluated/cifar10c/acc1"].between(0, 1).all()
    assert main(["collect", str(tmp_path / "s")]) == 0
    assert "evaluated/cifar10c/severity_3/acc1" in pd.read_csv(tmp_path / "s" / "results.csv")
    assert main(["report", str(tmp_path / "s")]) == 0
    assert "cifar10c: accuracy" in (tmp_path / "s" / "report.html").read_text()
    # damage is found by the job, in one line
    (tmp_path / "data" / "CIFAR-10-C" / "fog.npy").write_bytes(b"no array")
    assert main(["evaluate", *words, "force=true"]) == 1
    captured = capfd.readouterr()
    assert captured.out.count("fog.npy cannot be read as an array of numpy") == 2
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.long
def test_the_command_on_imagenet_c(tmp_path, capfd):
    pictures(tmp_path / "images", train=6, val=2)
    words = (
        f"data.root={tmp_path / 'images'}",
        "data.image_size=8",
        "data.resize=9",
        "data.batch_size=4",
        "data.num_workers=0",
    )
    trained = compose_bare("data=image_folder", "diagnostics=off", "train.epochs=1", "model.width=2", *words)
    run(trained, tmp_path / "r")
    write_imagenet_c(tmp_path / "c", STANDARD)
    words = ["data=imagenet_c", f"data.root={tmp_path / 'c'}", "data.num_workers=0", "device=cpu"]
    assert main(["evaluate", str(tmp_path / "r"), *words]) == 0
    out = capfd.readouterr().out
    assert "jpeg_compression" in out
    (row,) = read_evaluations(tmp_path / "r")
    assert row["imagenet_c/mce"] > 0
    assert main(["evaluate", str(tmp_path / "r"), "data=image_folder", f"data.root={tmp_path / 'images'}"]) == 0
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert latest_evaluations(tmp_path / "r")["image_folder/acc1"] == summary["final/test/acc1"]
    assert latest_evaluations(tmp_path / "r")["image_folder/loss"] == pytest.approx(
        summary["final/test/loss"], rel=1e-6
    )
