"""Between two steps there are the weights, and what the table below says; nothing else, in copies of the model."""

from support.devices import bytes_held, on_each_device
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny

# Batches, a loss, sums of metrics, counters; on the GPU each tensor takes a multiple of 512 bytes.
SMALL = 0.25  # model copies
SETTING = ("model.width=32", "train.epochs=1", "diagnostics=off", "data.augment.flip=false")
BASE = {"adamw": 2}  # the state of the base optimizer; momentum of SGD elsewhere: 1
# Where the true weights wait while the weights are perturbed. The place is kept: fresh memory costs page faults.
PLACE = {**dict.fromkeys(VARIANTS, 1), **dict.fromkeys(("sgd", "sgd_2x", "adamw", "sam_on"), 0)}
EMA = ("fsam", "fasam", "fsam_quarter", "sam_full_ema", "sam_noise_ema", "friendly_fisher_sam", "vasso")
FULL_GRADIENT = ("sam_full", "sam_component", "sam_noise")
REUSED = ("looksam",)  # the part of the last perturbed gradient that the steps between use
METRIC = ("fisher_sam", "friendly_fisher_sam")  # T of the last step
OWN = {name: sum(name in group for group in (EMA, FULL_GRADIENT, REUSED, METRIC)) for name in VARIANTS}
COPIES = {name: BASE.get(name, 1) + PLACE[name] + OWN[name] for name in VARIANTS}  # beside weights and gradients


def growth(name, device):
    """Return the bytes held after five steps beyond those of the built trainer, and those of the model."""
    trainer = build_trainer(compose_tiny(*SETTING, f"optimizer={name}"), device)
    trainer._observer = Rows()  # asked between the batches of a pass over the full set
    batches = trainer.data.train.batches(0)
    before = bytes_held(device)
    for _ in range(5):
        trainer._step(next(batches))
    trainer.optimizer.zero_grad(set_to_none=True)
    model = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    return bytes_held(device) - before, model


@on_each_device(VARIANTS, twins=["sgd", "fsam", "sam_on", "fisher_sam", "sam_noise"])
def test_a_variant_holds_what_it_says(name, device):
    held, model = growth(name, device)
    assert COPIES[name] <= held / model < COPIES[name] + SMALL
