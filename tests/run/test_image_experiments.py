"""The experiments on streamed images run from files in their real formats, with a small network in place of theirs."""

import json

import pytest
import torch
from support.made_data import pictures, write_cars, write_flowers, write_pets
from support.marks import long_but

from fsamlab.config import ConfigError
from fsamlab.models import build_model
from fsamlab.run import Bookkeeper, run
from fsamlab.rundir import checkpoint

SMALL = (
    *("data.batch_size=4", "data.eval_batch_size=8", "data.image_size=32", "data.resize=36", "data.num_workers=0"),
    *("train.epochs=2", "train.num_threads=1", "train.progress=false", "tracker=none", "diagnostics=off"),
    *("train.warmup_epochs=1", "model.pretrained=false", "optimizer=fsam"),
)
TRANSFER = {"flowers": "flowers102", "pets": "oxford_pets", "cars": "stanford_cars"}
EXPERIMENTS = {
    "imagenet_resnet50": "test_resnet",
    "imagenet_vit_s16": "test_vit",
    **{f"transfer_deit_{name}": "test_vit" for name in TRANSFER},
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_flowers(tmp_path / "data", monkeypatch)
    write_pets(tmp_path / "data")
    write_cars(tmp_path / "data")
    pictures(tmp_path / "data" / "imagenet", train=6, val=3)
    return tmp_path / "data"


def small(composed, root, experiment, *more):
    place = root / "imagenet" if experiment.startswith("imagenet") else root
    model = f"model.name={EXPERIMENTS[experiment]}"
    return composed(f"experiment={experiment}", *SMALL, model, f"data.root={place}", *more)


@pytest.mark.parametrize("experiment", long_but(["transfer_deit_flowers"], EXPERIMENTS))
def test_each_experiment_trains(root, composed, tmp_path, experiment):
    config = small(composed, root, experiment, "data.val_size=4", "train.max_steps=2", "train.accumulate_steps=2")
    summary = run(config, tmp_path / "run")
    assert summary["cost/steps"] == 2
    assert summary["data/num_val"] == 4
    assert 0 <= summary["final/test/acc1"] <= 1
    seen = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert "images of" in seen["data.root"]["what"]


@pytest.mark.long
@pytest.mark.parametrize("name", TRANSFER)
def test_a_transfer_resumes_in_the_same_bits_and_refuses_other_labels(root, composed, tmp_path, monkeypatch, name):
    config = small(composed, root, f"transfer_deit_{name}", "train.checkpoint_every_steps=1")
    run(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    real = Bookkeeper.boundary

    def stop(keeper):
        real(keeper)
        if keeper.trainer.step == 3:
            raise Stop

    monkeypatch.setattr(Bookkeeper, "boundary", stop)
    with pytest.raises(Stop):
        run(config, tmp_path / "cut")
    monkeypatch.setattr(Bookkeeper, "boundary", real)
    image = next(root.glob("flowers-102/jpg/*.jpg" if name == "flowers" else f"*{name[:-1]}*/*/*.jpg"))
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    with pytest.raises(ConfigError, match=r"data.root=.*: has changed since cut started \(label files, and \d+ images"):
        run(config, tmp_path / "cut")
    image.write_bytes(content)
    run(config, tmp_path / "cut")
    states = [checkpoint.load(tmp_path / place / "checkpoints" / "last.pt")["model"] for place in ("whole", "cut")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("experiment", "num_classes", "count"),
    [
        ("imagenet_resnet50", 1000, 25_557_032),
        ("imagenet_vit_s16", 1000, 22_050_664),
        ("transfer_deit_flowers", 102, 21_704_934),
        ("transfer_deit_pets", 37, 21_679_909),
        ("transfer_deit_cars", 196, 21_741_124),
    ],
)
def test_each_experiment_has_the_network_of_its_name(composed, experiment, num_classes, count):
    with torch.device("meta"):
        model = build_model(composed(f"experiment={experiment}").model, num_classes, 3, start_weights=False)
    assert sum(p.numel() for p in model.parameters()) == count
