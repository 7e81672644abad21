import json

import pandas as pd
import pytest
import yaml

from fsamlab.command.main import main
from fsamlab.results import study
from fsamlab.results.collect import collect
from fsamlab.results.settings import clear_best, values_of
from fsamlab.results.study import Study
from fsamlab.results.summary import print_sweep, settings_table
from fsamlab.rundir.find import find_runs


def make_run(directory, optimizer, seed, accuracy, status="finished", rho=0.2):
    directory.mkdir(parents=True)
    config = {"name": "s", "seed": seed, "optimizer": {"name": optimizer, "rho": 0.0 if optimizer == "sgd" else rho}}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "status.json").write_text(json.dumps({"status": status, "exception": None}))
    summary = {
        "final/test/acc1": accuracy,
        "best/test/acc1": accuracy + 0.1,
        "cost/step_ms": 10.0 if optimizer == "sgd" else 20.0,
    }
    if status == "finished":
        (directory / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def frame(tmp_path):
    for seed, (a, b) in enumerate([(0.5, 0.6), (0.7, 0.9)]):
        make_run(tmp_path / f"sgd{seed}", "sgd", seed, a)
        make_run(tmp_path / f"sam{seed}", "sam", seed, b)
    make_run(tmp_path / "sam2", "sam", 2, 0.0, status="failed")
    return collect(find_runs([tmp_path]))


def test_means_and_spreads_are_over_finished_seeds(frame):
    table = Study(frame).settings().set_index("optimizer.name")
    assert table.loc["sgd", "n"] == table.loc["sam", "n"] == 2
    assert table.loc["sam", "final/test/acc1 mean"] == pytest.approx(0.75)
    assert table.loc["sam", "final/test/acc1 std"] == pytest.approx(0.3 / 2**0.5)
    assert table.loc["sgd", "best/test/acc1 mean"] == pytest.approx(0.7)
    assert table.loc["sam", "step_vs_sgd"] == pytest.approx(2.0)
    assert len(frame) == 5


def test_a_key_that_follows_from_the_method_is_no_setting(frame):
    assert Study(frame).keys == ["optimizer.name"]


def test_what_refines_the_method_is_one(tmp_path):
    for rho in (0.1, 0.2):
        make_run(tmp_path / str(rho), "sam", 0, 0.5, rho=rho)
    assert Study(collect(find_runs([tmp_path]))).keys == ["optimizer.name", "optimizer.rho"]


def test_differences_to_sgd_are_taken_seed_by_seed(tmp_path):
    for seed, (a, b) in enumerate([(0.5, 0.6), (0.7, 0.9)]):
        make_run(tmp_path / f"sgd{seed}", "sgd", seed, a)
        make_run(tmp_path / f"sam{seed}", "sam", seed, b)
    make_run(tmp_path / "sam2", "sam", 2, 0.1)  # no SGD of this seed
    table = Study(collect(find_runs([tmp_path]))).settings().set_index("optimizer.name")
    pairs = table.loc["sam", "final/test/acc1 gain"].pairs
    assert (pairs.mean, pairs.std, pairs.n) == pytest.approx((15, 5 * 2**0.5, 2))
    assert table.loc["sgd", "final/test/acc1 gain"] is None
    assert table.loc["sam", "final/test/acc1 n"] == 3


def test_no_difference_where_sgd_itself_varies(tmp_path):
    for lr in (0.1, 0.2):
        make_run(tmp_path / f"sgd{lr}", "sgd", 0, lr)
    make_run(tmp_path / "sam", "sam", 0, 0.5)
    frame = collect(find_runs([tmp_path])).assign(**{"optimizer.lr": [0.1, 0.1, 0.2]})
    assert Study(frame).settings()["final/test/acc1 gain"].isna().all()


def settings(*columns, keys):
    frame = pd.DataFrame([dict(zip(("optimizer.name", *keys), values)) for values in zip(*columns)])
    return frame.assign(status="finished")


def test_what_changes_with_a_setting_is_named():
    methods, width, epochs = ["sgd", "sam"] * 2, [8, 8, 16, 16], [12, 12, 24, 24]
    frame = settings(methods, width, epochs, keys=("model.width", "train.epochs"))
    assert Study(frame).keys == ["optimizer.name", "model.width"]
    assert Study(frame).ties() == {"model.width": ["train.epochs"]}
    crossed = settings(methods * 2, width * 2, epochs + epochs[::-1], keys=("model.width", "train.epochs"))
    assert Study(crossed).ties() == {}


def test_what_changes_with_the_method_is_named_unless_it_is_the_methods():
    frame = settings(["sgd", "sam"], [0.0, 0.2], [24, 12], keys=("optimizer.rho", "train.epochs"))
    assert Study(frame).ties() == {"optimizer.name": ["train.epochs"]}


def test_a_learning_rate_scaled_with_the_batch_for_each_method():
    methods, batch, lr = ["sgd", "sgd", "sam", "sam"], [32, 64, 32, 64], [0.1, 0.2, 0.05, 0.1]
    frame = settings(methods, batch, lr, keys=("data.batch_size", "optimizer.lr"))
    assert Study(frame).ties() == {"data.batch_size": ["optimizer.lr"]}


def test_what_follows_from_two_settings_together_is_named_with_both():
    width, batch = [8, 8, 16, 16], [32, 64, 32, 64]
    lr = [w * b for w, b in zip(width, batch)]
    frame = settings(["sam"] * 4, batch, width, lr, keys=("data.batch_size", "model.width", "optimizer.lr"))
    assert Study(frame).ties() == {"data.batch_size": ["optimizer.lr"], "model.width": ["optimizer.lr"]}


def test_no_finished_run_no_table(tmp_path):
    make_run(tmp_path / "a", "sam", 0, 0.5, status="failed")
    assert Study(collect(find_runs([tmp_path]))).settings().empty
    assert isinstance(collect([]), pd.DataFrame)


def test_relative_time_is_found_although_sgd_has_no_rho(tmp_path):
    make_run(tmp_path / "sgd", "sgd", 0, 0.5)
    for rho in (0.1, 0.2):
        make_run(tmp_path / str(rho), "sam", 0, 0.5, rho=rho)
    table = Study(collect(find_runs([tmp_path]))).settings()
    assert sorted(table["step_vs_sgd"]) == [1.0, 2.0, 2.0]


def test_relative_time_where_a_setting_has_no_value(tmp_path):
    for optimizer in ("sgd", "sam"):
        for seed in (0, 1):
            make_run(tmp_path / f"{optimizer}{seed}", optimizer, seed, 0.5)
    frame = collect(find_runs([tmp_path])).assign(**{"data.subset": [None, 0.1, None, 0.1]})
    table = Study(frame).settings()
    assert sorted(table["step_vs_sgd"]) == [1.0, 1.0, 2.0, 2.0]


def test_a_metric_that_only_some_runs_have(frame):
    table = Study(frame.assign(mine=[1.0, None, None, None, None])).settings(["mine"]).set_index("optimizer.name")
    assert table["mine n"].max() == 1
    assert Study(frame.drop(columns="cost/step_ms")).settings()["step_ms"].isna().all()


def test_a_step_takes_the_median_over_runs(tmp_path):
    for seed in range(3):
        make_run(tmp_path / str(seed), "sam", seed, 0.5)
    frame = collect(find_runs([tmp_path])).assign(**{"cost/step_ms": [20.0, 21.0, 100.0]})  # one was disturbed
    assert Study(frame).settings().loc[0, "step_ms"] == 21.0


def test_a_run_that_never_started_adds_no_column(tmp_path):
    make_run(tmp_path / "a", "sgd", 0, 0.5)
    frame = collect([tmp_path / "a", tmp_path / "never"])
    assert list(Study(frame).settings()["optimizer.name"]) == ["sgd"]
    assert list(frame["status"]) == ["finished", "queued"]


def test_rows_of_a_run_and_its_measurements(tmp_path):
    make_run(tmp_path / "a", "sam", 0, 0.5)
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 1, "epoch": 1.0, "val/acc1": 0.5}\n{"step": 2, "ep')
    (tmp_path / "a" / "measurements").mkdir()
    row = {"step": 2, "epoch": 2.0, "measured": "2026", "checkpoint": "last", "sharpness/one_step": 0.25}
    (tmp_path / "a" / "measurements" / "last-step2-0.jsonl").write_text(json.dumps(row) + "\n")
    rows = Study(collect([tmp_path / "a"])).rows
    assert list(rows.columns[:1]) == ["directory"]
    assert rows["step"].tolist() == [1, 2]
    assert rows["val/acc1"].tolist()[0] == 0.5
    assert rows["measured/sharpness/one_step"].tolist()[1] == 0.25
    assert "checkpoint" not in rows
    assert set(rows) == {"directory", "step", "epoch", "val/acc1", "measured/sharpness/one_step"}
    assert Study(collect([])).rows.empty


def test_rows_are_read_when_first_asked_for_and_everything_is_computed_once(tmp_path, monkeypatch):
    for seed in (0, 1):
        make_run(tmp_path / str(seed), "sam", seed, 0.5)
        (tmp_path / str(seed) / "metrics.jsonl").write_text('{"step": 1, "epoch": 1.0, "val/acc1": 0.5}\n')
    read = []
    monkeypatch.setattr(study, "read_run_rows", lambda d, real=study.read_run_rows: read.append(d.name) or real(d))
    found = Study(collect(find_runs([tmp_path])))
    assert not found.settings().empty
    assert read == []
    runs, rows = found
    assert read == ["0", "1"]
    assert found.rows is rows
    assert found.runs is runs
    for name in ("keys", "setting_keys", "texts", "finished"):
        assert getattr(found, name) is getattr(found, name)
    assert found.finished is found  # all have finished: the part is the whole, with what it has computed
    with pytest.raises(AttributeError):
        found.runs = runs


def spread_table(tmp_path, accuracies):
    for optimizer, values in accuracies.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / f"{optimizer}{seed}", optimizer, seed, value)
    return Study(collect(find_runs([tmp_path]))).settings()


@pytest.mark.parametrize(
    ("sam", "best"),
    [
        ((0.60, 0.80), None),  # 0.7 against 0.6, spreads 0.14 and 0.014: within the larger
        ((0.69, 0.71), "sam"),
        ((0.7,), None),  # one run has no spread
    ],
)
def test_the_best_is_clear_only_beyond_the_spread(tmp_path, sam, best):
    table = spread_table(tmp_path, {"sgd": (0.59, 0.61), "sam": sam})
    assert [table.loc[i, "optimizer.name"] for i in clear_best(table, "final/test/acc1")] == ([best] if best else [])


def test_rivals_agree_in_everything_but_the_optimizer():
    rows = [("sgd", "a", 0.5), ("sam", "a", 0.6), ("sgd", "b", 0.9), ("sam", "b", 0.8)]
    table = pd.DataFrame(
        [
            {"optimizer.name": o, "data.name": d, "n": 2, "final/test/acc1 mean": m, "final/test/acc1 std": 0.01}
            for o, d, m in rows
        ]
    )
    assert clear_best(table, "final/test/acc1") == {1, 2}
    assert clear_best(table, "best/test/acc1") == set()


def test_a_run_of_two_sweeps_counts_once():
    rows = [
        {"status": "finished", "run_id": i, "cost/step_ms": 1.0, "final/test/acc1": a} for i, a in ("a1", "a1", "b3")
    ]
    frame = pd.DataFrame([{**row, "optimizer.name": "sam"} for row in rows]).astype({"final/test/acc1": float})
    table = Study(frame).settings()
    assert table.loc[0, ["n", "final/test/acc1 mean"]].tolist() == [2, 2.0]
    assert Study(frame.assign(run_id=None)).settings().loc[0, "n"] == 3  # nothing known: nothing dropped


def test_a_configuration_of_something_else_is_named(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")
    assert main(["collect", str(tmp_path)]) == 1
    assert "other/config.yaml is not the configuration of a run: optimizer.name is missing" in capsys.readouterr().out


def cells(table):
    """The texts of a rich table, line by line."""
    return [list(row) for row in zip(*(column.cells for column in table.columns))]


def test_a_mean_over_fewer_runs_has_its_own_n(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.6, 0.9)):
        make_run(tmp_path / f"sam{seed}", "sam", seed, accuracy)
    (tmp_path / "sam2" / "summary.json").unlink()
    (line,) = cells(settings_table(Study(collect(find_runs([tmp_path])))))
    assert line[:4] == ["sam", "3", "65.00 ± 7.07 (n = 2)", "55.00 ± 7.07 (n = 2)"]
    make_run(tmp_path / "new", "sgd", 0, 0.5)
    (tmp_path / "new" / "summary.json").unlink()
    assert cells(settings_table(Study(collect(find_runs([tmp_path])))))[0][:4] == ["sgd", "1", "-", "-"]


def test_settings_stand_in_the_order_of_methods_and_values(tmp_path):
    for i, (method, rho) in enumerate(
        [("zz", 0.1), ("fsam", 0.1), ("sam", 0.2), ("sam", 10.0), ("sam", 0.05), ("sgd", 0.0), ("sam", 0.4)]
    ):
        make_run(tmp_path / str(i), method, 0, 0.5, rho=rho)
    found = [line[:2] for line in cells(settings_table(Study(collect(find_runs([tmp_path])))))]
    radii = [["sam", text] for text in ("0.05", "0.2", "0.4", "10")]
    assert found == [["sgd", "0"], *radii, ["fsam", "0.1"], ["zz", "0.1"]]


def test_a_whole_training_is_steps_times_their_time(frame):
    steps = frame["optimizer.name"].map({"sgd": 100, "sam": 150})
    table = Study(frame.assign(**{"cost/steps": steps})).settings().set_index("optimizer.name")
    assert table["total_vs_sgd"].to_dict() == {"sgd": 1.0, "sam": 3.0}  # a step takes twice as long
    assert table["step_vs_sgd"].to_dict() == {"sgd": 1.0, "sam": 2.0}
    assert {line[0]: line[-2:] for line in cells(settings_table(Study(frame.assign(**{"cost/steps": steps}))))} == {
        "sgd": ["1.00x", "10.0 ms"],
        "sam": ["3.00x", "20.0 ms"],
    }
    assert Study(frame).settings()["total_vs_sgd"].isna().all()  # steps are not known
    alone = frame[frame["optimizer.name"] == "sam"].assign(**{"cost/steps": 100})
    assert Study(alone).settings()["total_vs_sgd"].isna().all()


def test_a_whole_training_is_compared_within_its_condition(frame):
    parts = [frame.assign(**{"data.batch_size": b, "cost/steps": 1000 // b, "cost/step_ms": 5.0 * b}) for b in (10, 20)]
    table = Study(pd.concat(parts, ignore_index=True)).settings()
    assert table["total_vs_sgd"].tolist() == [1.0] * 4


def test_a_csv_that_cannot_be_written_is_one_line_before_anything_is_read(tmp_path, capsys):
    make_run(tmp_path / "runs" / "a", "sam", 0, 0.5)
    (tmp_path / "runs" / "a" / "summary.json").write_text("damaged")
    missing = tmp_path / "missing" / "x.csv"
    for csv, why in ((missing, "No such file or directory"), (tmp_path, "Is a directory")):
        assert main(["collect", str(tmp_path / "runs"), "--csv", str(csv)]) == 1
        assert capsys.readouterr().err == f"error: {csv}: {why}\n"
    (tmp_path / "file").write_text("")
    assert main(["collect", str(tmp_path / "runs"), "--csv", str(tmp_path / "file" / "x.csv")]) == 1
    assert capsys.readouterr().err.endswith("x.csv: Not a directory\n")


def test_keys_that_name_groups_are_given_where_a_figure_has_its_own():
    frame = settings(["sgd", "sam"] * 2, [8, 8, 16, 16], [12, 12, 24, 24], keys=("model.width", "train.epochs"))
    assert Study(frame).ties(["optimizer.name", "train.epochs"]) == {"train.epochs": ["model.width"]}
    assert Study(frame).ties(["train.epochs"]) == {"train.epochs": ["model.width"]}


def test_what_is_said_of_ties_counts_finished_runs_only():
    frame = settings(["sam"] * 3, [8, 16, 16], [12, 24, 12], keys=("model.width", "train.epochs"))
    assert Study(frame).tie_words() == []
    frame["status"] = ["finished", "finished", "failed"]
    assert Study(frame).tie_words() == ["train.epochs changes together with model.width"]


def test_the_tables_of_a_terminal_say_what_else_changes(tmp_path, capsys):
    for width, epochs in ((32, 8), (16, 24)):
        for seed in (0, 1):
            run = tmp_path / "s" / f"{width}-{seed}"
            make_run(run, "sam", seed, 0.5 + width / 100)
            config = yaml.safe_load((run / "config.yaml").read_text())
            config.update(model={"width": width}, train={"epochs": epochs})
            (run / "config.yaml").write_text(yaml.safe_dump(config))
    note = "note: train.epochs changes together with model.width: a difference between its values may be due to either."
    assert main(["collect", str(tmp_path / "s")]) == 0
    assert note in capsys.readouterr().out.splitlines()
    directories = [d for d in sorted((tmp_path / "s").iterdir()) if d.is_dir()]
    assert print_sweep(tmp_path / "s", directories) == 0
    assert note in capsys.readouterr().out.splitlines()


def test_a_run_that_does_not_perturb_has_no_value_of_a_perturbation():
    runs = pd.DataFrame(
        {"optimizer.ascent": ["none", "batch"], "optimizer.rho": [0.0, 0.1], "optimizer.lr": [0.2, "x"]}
    )
    assert [str(v) for v in values_of(runs, "optimizer.rho")] == ["nan", "0.1"]
    assert [str(v) for v in values_of(runs, "optimizer.lr")] == ["0.2", "nan"]
    assert list(values_of(runs[["optimizer.rho"]], "optimizer.rho")) == [0.0, 0.1]
