"""With deterministic algorithms, a training on a device repeats bit for bit, also when it was stopped and resumed."""

import contextlib
import io

import pytest
import torch
from support.devices import deterministic, on_each_device
from support.runs import VARIANTS, Rows, build_trainer, compose_bare, compose_tiny

SETTING = ("train.epochs=1", "diagnostics.every_steps=4")
SHOWN = ("fsam",)
TWINS = ("sam_db", "esam")  # few: tests/train/test_trainer.py resumes every variant on the CPU


class Stop(Exception):
    pass


class StopAt(Rows):
    """Stops after a step, keeping the state as a file would."""

    def __init__(self, trainer, step):
        super().__init__()
        self.trainer, self.step, self.saved, self.made = trainer, step, io.BytesIO(), 0

    def boundary(self):
        self.made += 1
        if self.trainer.step == self.step:
            torch.save(self.trainer.state_dict(), self.saved)
            raise Stop


def trained(device, *overrides, saved=None, stop=None):
    """Return the trainer and its observer after a training from the start or from a saved state."""
    trainer = build_trainer(compose_tiny(*SETTING, *overrides), device)
    if saved is not None:
        saved.seek(0)
        trainer.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
    observer = StopAt(trainer, stop)
    with deterministic(), contextlib.suppress(Stop):
        trainer.fit(observer)
    return trainer, observer


def bits(trainer):
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def timeless(observer):
    return [{k: v for k, v in row.items() if not k.startswith("time")} for row in observer.rows]


@on_each_device(VARIANTS, twins=[*SHOWN, *TWINS])
def test_the_same_training_has_the_same_bits(name, device):
    first, rows = trained(device, f"optimizer={name}")
    again, rows_again = trained(device, f"optimizer={name}")
    assert_same(bits(again), bits(first))
    assert timeless(rows_again) == timeless(rows)


@on_each_device(VARIANTS, plain=SHOWN, twins=TWINS)
def test_a_resumed_training_has_the_same_bits(name, device):
    whole, rows = trained(device, f"optimizer={name}")
    step = whole.total_steps // 2
    _, first = trained(device, f"optimizer={name}", stop=step)
    resumed, rest = trained(device, f"optimizer={name}", saved=first.saved)
    assert (first.made, rest.made) == (step, whole.step - step)
    assert_same(bits(resumed), bits(whole))
    assert timeless(first) + timeless(rest) == timeless(rows)


@on_each_device(["fsam"])
def test_another_seed_has_other_bits(name, device):
    first, _ = trained(device, f"optimizer={name}")
    with pytest.raises(AssertionError):
        assert_same(bits(trained(device, f"optimizer={name}", "seed=1")[0]), bits(first))


SMALL = (
    *("data=synthetic", "data.channels=3", "data.image_size=32", "data.num_samples=36", "data.val_size=10"),
    *("data.test_size=10", "data.batch_size=8", "train.max_steps=2", "train.epochs=1", "diagnostics=off"),
    *("optimizer=fsam", "train.num_threads=1"),
)
NETWORKS = {
    "resnet18": ("model=resnet18",),
    "wrn16_8": ("model=wrn16_8_official",),
    "vgg16_bn": ("model=vgg16_bn",),
    "vit": ("model=timm", "model.name=vit_tiny_patch16_224", "model.pretrained=false"),
}


@on_each_device(NETWORKS, twins=["vit"])
def test_the_networks_have_deterministic_algorithms(name, device):
    """torch raises where an operation has none; two steps and an evaluation of each network."""
    finals = []
    for _ in range(2):
        trainer = build_trainer(compose_bare(*SMALL, *NETWORKS[name]), device)
        with deterministic():
            trainer.fit(Rows())
        assert trainer.step == 2
        finals.append(bits(trainer))
    assert_same(*finals)
