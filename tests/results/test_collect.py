import yaml
from support.made_runs import make_run

from fsamlab.results.collect import collect, of_earlier_versions
from fsamlab.results.study import Study


def record(directory, **data):
    """Add settings of the data to the record of a run."""
    config = yaml.safe_load((directory / "config.yaml").read_text())
    config["data"] |= data
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def test_a_run_of_an_earlier_version_is_of_the_setting_of_a_new_run_with_the_default(tmp_path):
    early = make_run(tmp_path / "early", seed=0)  # its record has no data.imbalance
    new = record(make_run(tmp_path / "new", seed=1), imbalance=1.0, augment={"mixup": 0.0})
    other = record(make_run(tmp_path / "other", seed=1), imbalance=10.0)
    frame = collect([early, new, other])
    assert frame["data.imbalance"].tolist() == [1.0, 1.0, 10.0]
    assert frame["data.augment.mixup"].tolist() == [0.0, 0.0, 0.0]
    table = Study(frame).settings().set_index("data.imbalance")
    assert table["n"].to_dict() == {1.0: 2, 10.0: 1}


def test_what_the_record_has_stays(tmp_path):
    row = collect([record(make_run(tmp_path / "run"), mean=[0.5], val_size=None)]).iloc[0]
    assert (row["data.batch_size"], row["data.mean"], row["data.val_size"]) == (32, (0.5,), None)


def test_settings_without_a_default_are_not_made_up():
    assert {"data.name", "model.init", "optimizer.sigma"}.isdisjoint(of_earlier_versions())
    assert of_earlier_versions()["data.noise_type"] == "symmetric"


def test_a_directory_without_a_record_has_no_settings(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "config.yaml").unlink()
    assert not [key for key in collect([run]).columns if key.startswith("data.")]
