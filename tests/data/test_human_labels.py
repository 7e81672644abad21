from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from support.made_data import write_cifar, write_human
from support.runs import compose_tiny

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data import build_data
from fsamlab.rundir import inputs
from fsamlab.storage.reading import Damaged

CPU = torch.device("cpu")
CLEAN = np.arange(12) % 10  # as write_cifar has them
OF_CIFAR10 = {
    "aggregate": "aggre_label",
    "worst": "worse_label",
    "random1": "random_label1",
    "random2": "random_label2",
}
OF_CIFAR10["random3"] = "random_label3"


def shifted(by):
    return (CLEAN + np.arange(12) % 2 * by) % 10


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    write_cifar(tmp_path / "data", torchvision.datasets.CIFAR10, "labels", monkeypatch)
    columns = {key: shifted(by) for by, key in enumerate(OF_CIFAR10.values(), start=1)}
    write_human(tmp_path / "data" / "CIFAR-10_human.pt", clean_label=CLEAN, **columns)
    return tmp_path


def config(**fields):
    fixed = {"batch_size": 4, "mean": [0.0] * 3, "std": [1.0] * 3, "noise_type": "human", "human_labels": "aggregate"}
    return DataConfig(**{"name": "cifar10", "val_size": 2, **fixed, **fields})


def labels_of(root, **fields):
    data = build_data(config(**fields), 0, CPU, root)
    whole = data.train.at(torch.arange(data.train.num_samples))
    return data, whole.labels


@pytest.mark.parametrize(("column", "by"), [(name, by) for by, name in enumerate(OF_CIFAR10, start=1)])
def test_labels_of_cifar10n_are_those_of_the_column_at_the_positions_of_the_split(cifar10, column, by):
    data, labels = labels_of(cifar10, human_labels=column)
    clean, _ = labels_of(cifar10, noise_type="symmetric", human_labels=None)
    order = clean.train.at(torch.arange(10)).inputs
    assert torch.equal(data.train.at(torch.arange(10)).inputs, order)  # the same images in the same order
    true = clean.train.at(torch.arange(10)).labels
    odd = torch.tensor([int(label) % 2 for label in true])  # the 12 images have labels 0..9, 0, 1
    assert torch.equal(labels, (true + odd * by) % 10)
    assert data.facts["effective_label_noise"] == pytest.approx(odd.double().mean().item())
    assert next(data.val.batches()).labels.tolist() == next(clean.val.batches()).labels.tolist()  # clean


@pytest.mark.parametrize("by_numpy_1", [True, False])
def test_cifar100n(tmp_path, monkeypatch, by_numpy_1):
    write_cifar(tmp_path / "data", torchvision.datasets.CIFAR100, "fine_labels", monkeypatch)
    path = tmp_path / "data" / "CIFAR-100_human.pt"
    coarse = np.zeros(12, dtype=np.int64)
    write_human(path, by_numpy_1, clean_label=CLEAN, noisy_label=CLEAN + 90, noisy_coarse_label=coarse)
    data, labels = labels_of(tmp_path, name="cifar100", human_labels="fine")
    assert int(labels.min()) >= 90
    assert data.facts["effective_label_noise"] == 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clean_label": CLEAN[::-1].copy(), "aggre_label": CLEAN}, r"clean_label differs .* in \d+ of 12 images; the"),
        ({"clean_label": CLEAN, "aggre_label": CLEAN[:7]}, "aggre_label has 7 labels for 12 training images"),
        ({"clean_label": CLEAN, "noisy_label": CLEAN}, "has no aggre_label, but clean_label, noisy_label"),
        ({"clean_label": CLEAN, "aggre_label": CLEAN + 5}, "aggre_label does not hold labels 0 to 9"),
        ({"clean_label": CLEAN, "aggre_label": CLEAN * 0.5}, "holds more than arrays of integers"),
    ],
)
def test_a_file_of_other_images_is_refused_in_one_line(cifar10, content, message):
    write_human(cifar10 / "data" / "CIFAR-10_human.pt", **content)
    with pytest.raises((ConfigError, Damaged), match=message) as raised:
        build_data(config(), 0, CPU, cifar10)
    assert "\n" not in str(raised.value)
    assert "CIFAR-10_human.pt" in str(raised.value)


class Code:
    def __reduce__(self):
        return print, ("the code in the file ran",)


def test_a_file_that_is_missing_damaged_or_brings_code(cifar10, capsys):
    path = cifar10 / "data" / "CIFAR-10_human.pt"
    whole = path.read_bytes()
    for content in (b"", b"no file of torch", whole[: len(whole) // 2], whole.replace(b"\x04\0\0\0", b"\x05\0\0\0", 1)):
        path.write_bytes(content)
        with pytest.raises(Damaged, match=r"CIFAR-10_human\.pt") as raised:
            build_data(config(), 0, CPU, cifar10)
        assert "\n" not in str(raised.value)
    torch.save({"clean_label": Code()}, path)
    with pytest.raises(Damaged, match="holds more than arrays of integers"):
        build_data(config(), 0, CPU, cifar10)
    assert "ran" not in capsys.readouterr().out
    path.unlink()
    path.mkdir()
    with pytest.raises(Damaged, match=r"CIFAR-10_human\.pt cannot be read: Is a directory"):
        build_data(config(), 0, CPU, cifar10)
    path.rmdir()
    with pytest.raises(ConfigError, match=r"get CIFAR-10_human\.pt from https://github\.com/UCSC-REAL/\S+, folder"):
        build_data(config(), 0, CPU, cifar10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"human_labels": None}, r"data\.human_labels=null: must be one of aggregate, worst"),
        ({"human_labels": "fine"}, r"data\.human_labels=fine: must be one of aggregate, worst"),
        ({"name": "cifar100"}, r"data\.human_labels=aggregate: must be fine with data=cifar100"),
        ({"label_noise": 0.2}, r"data\.label_noise=0\.2: has no effect with data\.noise_type=human"),
        ({"noise_type": "symmetric"}, r"data\.human_labels=aggregate: is for data\.noise_type=human"),
        (
            {"name": "digits", "human_labels": None},
            r"data=digits has no labels of CIFAR-N; data=cifar10,",
        ),
    ],
)
def test_settings_that_do_not_go_together(fields, message):
    with pytest.raises(ConfigError, match=message):
        config(**fields)


def test_the_file_is_an_input_of_the_run(tmp_path):
    write_human(tmp_path / "CIFAR-10_human.pt", clean_label=CLEAN)
    run = compose_tiny()
    run = dataclasses.replace(run, data=config(root=str(tmp_path)))
    before = inputs.look(run)["data.human_labels"]
    write_human(tmp_path / "CIFAR-10_human.pt", clean_label=CLEAN, aggre_label=CLEAN)
    assert inputs.look(run)["data.human_labels"] != before
    assert inputs.value_of(run, "data.human_labels") == "aggregate"
