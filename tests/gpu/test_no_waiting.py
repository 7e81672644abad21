"""No step makes the host wait for the GPU: torch raises at the first read of a device tensor or blocking copy."""

import contextlib
import itertools

import pytest
from support.devices import on_each_device, without_waiting
from support.host_waits import DOCUMENTED
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny

WARM_UP, STEPS = 6, 50
# One epoch has more steps than the test: an epoch may begin with a copy of its order.
SETTING = ("data.num_samples=1100", "data.batch_size=16", "train.epochs=1", "diagnostics=off")
SETTINGS = {
    "micro-batches": ("train.accumulate_steps=4",),
    "per micro-batch": ("train.accumulate_steps=4", "train.accumulate_mode=per_micro_batch"),
    "clipped": ("train.max_grad_norm=1.0",),
    "bf16": ("train.precision=bf16",),
    "augmented": ("data.augment.cutout=4", "data.augment.mixup=0.2", "data.augment.cutmix=1.0"),
    "scalars": ("diagnostics=light", "diagnostics.every_steps=1000"),
    "continues": ("train.on_divergence=continue",),
    "captured": ("train.cuda_graph=true",),
}


def steps(device, *overrides):
    """Return a function that makes a number of steps of a training."""
    trainer = build_trainer(compose_tiny(*SETTING, *overrides), device)
    trainer._observer = Rows()  # asked between the batches of a pass over the full set
    assert trainer.steps_per_epoch > WARM_UP + STEPS
    batches = trainer.data.train.batches(0)

    def make(number):
        for batch in itertools.islice(batches, number):
            trainer._step(batch)
        return trainer.step

    return make


def make_without_waiting(device, make):
    """Make the steps; return why the host waited, None where it did not."""
    make(WARM_UP)  # the first steps make state, and torch loads kernels
    with without_waiting(device), contextlib.ExitStack():
        try:
            assert make(STEPS) == WARM_UP + STEPS
        except RuntimeError as e:
            if "synchroniz" not in str(e):
                raise
            return str(e)
    return None


@on_each_device(VARIANTS, twins=["fsam", "sam_db", "esam"])
def test_no_variant_waits_but_those_that_say_why(name, device):
    waited = make_without_waiting(device, steps(device, f"optimizer={name}"))
    if device.type == "cuda":
        assert (waited is not None) == (name in DOCUMENTED), waited


@on_each_device(SETTINGS, twins=["per micro-batch", "augmented"])
def test_no_setting_waits(name, device):
    assert make_without_waiting(device, steps(device, "optimizer=fsam", *SETTINGS[name])) is None


@on_each_device(["read"], plain=[])
def test_a_read_by_the_host_is_seen(name, device):
    make = steps(device, "optimizer=sgd")

    def reading(number):
        import torch

        done = make(number)
        torch.ones((), device=device).item()
        return done

    waited = make_without_waiting(device, reading)
    assert (waited is not None) == (device.type == "cuda")


def test_the_documented_variants_exist():
    assert set(DOCUMENTED) <= set(VARIANTS)
    assert all(DOCUMENTED.values())


def test_other_errors_are_no_waiting():
    import torch

    def fails(number):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="memory"):
        make_without_waiting(torch.device("cpu"), fails)
