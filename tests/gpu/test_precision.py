"""Every variant trains in bf16 and fp16 as in fp32, up to the rounding of these types."""

import torch
from support.devices import on_each_device
from support.runs import VARIANTS, Rows, build_trainer, compose_tiny, precisions

LOW = [precision for precision in precisions() if precision in ("bf16", "fp16")]
CASES = {f"{name}-{precision}": (name, precision) for precision in LOW for name in VARIANTS}
# Of the mean training loss of an epoch, which is near 2.3: bf16 has 8 bits, so one product is 0.4 % off, and a step of
# SAM moves by the direction of a gradient that is made of such products.
CLOSE = 0.05


def trained(device, name, precision):
    overrides = (f"optimizer={name}", f"train.precision={precision}", "train.epochs=1", "diagnostics=off")
    trainer = build_trainer(compose_tiny(*overrides), device)
    trainer.fit(Rows())
    row = trainer.last_row
    return trainer, row.get("train/loss", row.get("train/loss_perturbed"))


@on_each_device(CASES, plain=["fsam-bf16"], twins=[case for case in CASES if CASES[case][0] in ("sam", "gsam", "esam")])
def test_low_precision_trains_as_fp32(name, device):
    variant, precision = CASES[name]
    _, expected = trained(device, variant, "fp32")
    trainer, loss = trained(device, variant, precision)
    assert trainer.step == trainer.steps_per_epoch
    assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert abs(loss - expected) < CLOSE * expected


@on_each_device(LOW, plain=["bf16"])
def test_low_precision_is_used(name, device):
    """Weights after an epoch differ from those of fp32, or the type would be without effect."""
    plain, low = (trained(device, "sgd", precision)[0] for precision in ("fp32", name))
    assert any(not torch.equal(a, b) for a, b in zip(plain.model.parameters(), low.model.parameters(), strict=True))
