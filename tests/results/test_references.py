"""Reference numbers: the file of the package, and the checks of a user's file."""

import dataclasses

import pytest
import yaml
from support.reference_runs import put_run
from support.runs import ROOT

from fsamlab.config import ConfigError
from fsamlab.results import reference_files
from fsamlab.results.collect import collect_run
from fsamlab.results.reference_files import SHIPPED, known_references, read_references
from fsamlab.results.references import BEST, LAST
from fsamlab.storage.reading import Damaged

KNOWN = {one.name: one for one in known_references()}
LOGS = ("nblt-sam", "nblt-fsam-0.95", "nblt-fsam-0.6")
GOOD = {
    "name": "mine",
    "title": "SAM, our lab",
    "source": {"repository": "lab/notes"},
    "setting": {"data.name": "digits", "model.name": "small_cnn", "optimizer.name": "sam"},
    "values": {"last": {"mean": 97.0}},
}


def written(path, *entries, **others):
    path.write_text(yaml.safe_dump({"references": list(entries), **others}))
    return path


@pytest.mark.parametrize("name", LOGS)
def test_the_curve_of_a_log_ends_at_its_values(name):
    one = KNOWN[name]
    assert len(one.curve) == one.setting["train.epochs"] == 200
    assert one.curve[-1] == one.values[LAST].mean
    best = one.values[BEST]
    assert max(one.curve) == best.mean == one.curve[best.epoch - 1]
    assert one.curve.index(best.mean) == best.epoch - 1


def test_every_number_has_a_source_and_says_what_is_not_known():
    for one in KNOWN.values():
        assert one.source["repository"], one.name
        assert one.whole or one.unknown or one.not_here, one.name
        assert one.metric == "acc1" or one.not_here, one.name
        assert all(0 < value.mean < 100 for value in one.values.values()), one.name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nblt-sam", ("optimizer=sam",)),
        ("nblt-fsam-0.95", ("optimizer=fsam", "optimizer.lmbda=0.95")),
        ("figure1-sam-noise", ("optimizer=sam_noise",)),
        ("figure1-sam-full", ("optimizer=sam_full",)),
    ],
)
def test_our_recipe_is_the_setting_of_the_reference(tmp_path, name, words):
    row = collect_run(put_run(tmp_path / "run", *words))
    assert KNOWN[name].differences(row) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer__rho", 0.1, "optimizer.rho 0.1 (reference 0.2)"),
        ("train__epochs", 100, "train.epochs 100 (reference 200)"),
        ("model__init", None, "model.init null (reference official)"),
        ("model__name", "vgg16_bn", "model.name vgg16_bn (reference resnet18)"),
        ("train__label_smoothing", 0.1, "train.label_smoothing 0.1 (reference 0)"),  # no key of the file: the default
        ("optimizer__metric", "adaptive", "optimizer.metric adaptive (reference l2)"),
    ],
)
def test_a_difference_is_named(tmp_path, key, value, said):
    row = collect_run(put_run(tmp_path / "run", "optimizer=sam", **{key: value}))
    assert KNOWN["nblt-sam"].differences(row) == [said]


def test_the_machine_is_no_difference(tmp_path):
    row = collect_run(put_run(tmp_path / "run", "optimizer=sam", train__device="cuda", data__num_workers=4))
    assert KNOWN["nblt-sam"].differences(row) == []


def test_either_network_of_a_name_matches(tmp_path):
    for model in ("wrn28_10", "wrn28_10_official"):
        row = {"data.name": "cifar10", "model.name": model, "optimizer.name": "sgd", "optimizer.base": "sgd"}
        assert KNOWN["unifiedsam-sgd"].differences(row) == []
    assert KNOWN["unifiedsam-sgd"].differences(row | {"model.name": "resnet18"}) == [
        "model.name resnet18 (reference wrn28_10 or wrn28_10_official)"
    ]


def test_a_file_of_a_user_is_added(tmp_path, monkeypatch):
    path = written(tmp_path / "mine.yaml", GOOD | {"band": 0.5})
    assert [one.name for one in known_references([path])] == [*KNOWN, "mine"]
    local = tmp_path / "conf" / "local"
    local.mkdir(parents=True)
    written(local / "references.yaml", GOOD)
    monkeypatch.setattr(reference_files, "PROJECT_ROOT", tmp_path)
    assert [one.name for one in known_references()] == [*KNOWN, "mine"]
    assert [one.name for one in known_references([local / ".." / "local" / "references.yaml"])] == [*KNOWN, "mine"]
    with pytest.raises(ConfigError, match=r"is in .*references\.yaml too"):
        known_references([path])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": {"last": {"mean": "81"}}}, "reference 'mine': values.last.mean is '81' and must be a number"),
        ({"values": {"last": {"mean": float("nan")}}}, "values.last.mean is 'nan' and must be a number"),
        ({"values": {"last": 81}}, "values.last is '81' and must be a mapping"),
        ({"values": {"best": {"mean": 81}}}, "values has 'best', and may have last, best_on_test, unstated"),
        ({"values": {}}, "values is empty"),
        ({"source": {"url": "x"}}, "source.repository is missing"),
        ({"sed": [1]}, "unknown key sed .did you mean seeds"),
        ({"seeds": ["1"]}, "seeds is '1' and must be an integer"),
        ({"band": -1}, "band is -1 and must be above 0"),
        ({"recipes": ["other"]}, "recipes has 'other', and the file has none"),
        ({"setting": {"optimizer.lamda": 1}}, "setting has 'optimizer.lamda', which is no config key .did you mean"),
        ({"setting": {"data.name": "digits"}}, "setting has no model.name"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, change, said):
    path = written(tmp_path / "mine.yaml", GOOD | change)
    with pytest.raises(Damaged, match=said) as error:
        read_references(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a: [", "[]", "references: 3", "references: [3]", "references: []\nother: 1"])
def test_other_content_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises((Damaged, ConfigError), match=r"mine\.yaml"):
        read_references(tmp_path / "mine.yaml")


def test_two_references_of_one_name_are_refused(tmp_path):
    with pytest.raises(Damaged, match="two references with the name 'mine'"):
        read_references(written(tmp_path / "mine.yaml", GOOD, GOOD))


def test_the_shipped_file_has_no_key_of_its_own():
    assert SHIPPED.is_relative_to(ROOT / "src")
    fields = {f.name for f in dataclasses.fields(KNOWN["nblt-sam"])}
    assert fields | {"recipes"} == set(reference_files.KEYS)
