"""fp16 with a scaler, bf16 and TF32, for every variant: overflows, agreement with fp32, resume, measurements."""

import copy
import io

import pytest
import torch
from support.marks import long_but
from support.overflow import Overflowing
from support.runs import VARIANTS, Rows, compose_tiny
from support.trainers import step, trainer_of, weights

from fsamlab.checks import ConfigError
from fsamlab.train.precision import Precision, check_device

FULL_GRADIENT = "full_gradient"  # computed again after a step that was left out
PARTS = {"joint": (2, "joint"), "per_micro_batch": (2, "per_micro_batch")}


class Backwards:
    """Counts the backward passes of a trainer, and lets one of them overflow."""

    def __init__(self, trainer):
        self.precision, self.count, self.overflow_in = trainer.passes.precision, 0, None
        self.scaled, self.precision.scaled = self.precision.scaled, self

    def __call__(self, loss):
        self.count += 1
        return self.scaled(Overflowing.apply(loss) if self.count - 1 == self.overflow_in else loss)


def made(variant, *overrides, precision="fp16", **settings):
    return trainer_of(variant, *overrides, precision=precision, **settings)


def state(trainer):
    """Return what a step that is left out must not change. Statistics of BatchNorm follow the forward passes."""
    found = copy.deepcopy(trainer.optimizer.state_dict())
    own = {**found["param_groups"][0]["sharpness_aware"]}
    for key in ("num_steps", "num_nonfinite", "full_step"):
        del own[key]
    entries = {i: {k: v for k, v in entry.items() if k != FULL_GRADIENT} for i, entry in found["state"].items()}
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return {"own": own, "weights": weights, "entries": entries}


def assert_equal(a, b, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


CELLS = [(name, "whole") for name in VARIANTS] + [(name, "joint") for name in ("sgd", "fsam", "sam_full", "esam")]
MICRO = [n for n in VARIANTS if compose_tiny(f"optimizer={n}").optimizer.chosen().per_micro_batch]
CELLS += [(name, "per_micro_batch") for name in MICRO]
SHOWN = [("fsam", "whole"), ("sam_db", "whole"), ("fsam", "per_micro_batch")]


@pytest.mark.parametrize(("variant", "parts"), long_but(SHOWN, CELLS))
def test_an_overflow_in_any_backward_pass_leaves_the_step_out(variant, parts):
    """Weights, EMA, momentum and counters are those before the step, whichever pass overflows; the scale goes down."""
    number, mode = PARTS.get(parts, (1, "joint"))
    trainer = made(variant, accumulate_steps=number, accumulate_mode=mode)
    passes, scaler = Backwards(trainer), trainer.passes.precision.scaler
    for k in range(2):
        step(trainer, k)
    assert trainer.optimizer.num_nonfinite == 0
    checkpoint = copy.deepcopy(trainer.state_dict())
    before, scale = state(trainer), scaler.get_scale()
    passes.count = 0
    step(trainer, 2)
    num_passes = passes.count
    for overflow in range(num_passes):
        trainer.load_state_dict(copy.deepcopy(checkpoint))
        passes.count, passes.overflow_in = 0, overflow
        step(trainer, 2)
        assert trainer.optimizer.num_nonfinite == 1, overflow
        assert scaler.get_scale() == scale / 2
        assert_equal(state(trainer), before, f"pass {overflow}")
        passes.overflow_in = None
        step(trainer, 3)
        assert trainer.optimizer.num_nonfinite == 1
        assert not all(torch.equal(p, before["weights"][n]) for n, p in trainer.model.named_parameters())


# Distance to the weights of fp32, as a share of the way from the start; measured 0.001 to 0.006 in fp16, 0.007 to 0.045
# in bf16. It is larger for the small steps of AdamW, and where losses choose the samples (esam: 0.08 and 0.17).
NEAR = {"fp16": 0.01, "bf16": 0.06}
LESS_NEAR = {
    "adamw": {"fp16": 0.03, "bf16": 0.1},
    "esam": {"fp16": 0.3, "bf16": 0.3},
}


def smooth(trainer):
    """Replace ReLU, at whose kink a rounding error switches a unit, by a smooth function."""
    for module in trainer.model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, torch.nn.GELU())
    return trainer


@pytest.mark.parametrize("variant", long_but(["fsam"], VARIANTS))
def test_twenty_steps_stay_near_fp32(variant):
    # With MSAM's own radius, 3, rounding errors grow to half of the way.
    radius = ("optimizer.rho=0.05",) if variant == "msam" else ()
    lr = "optimizer.lr=0.001" if variant == "adamw" else "optimizer.lr=0.01"
    ends = {}
    for precision in ("fp32", "fp16", "bf16"):
        trainer = smooth(made(variant, lr, *radius, precision=precision))
        if precision == "fp16":
            rescaled(trainer, 2.0**12, growth_interval=2000)  # no step is left out: the distance is that of rounding
        start = weights(trainer)
        for k in range(20):
            step(trainer, k)
        assert trainer.optimizer.num_nonfinite == 0
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        ends[precision] = weights(trainer)
    way = (ends["fp32"] - start).norm()
    for precision, near in LESS_NEAR.get(variant, NEAR).items():
        distance = float((ends[precision] - ends["fp32"]).norm() / way)
        assert 1e-6 < distance < near, precision  # 0 would mean that nothing was computed in another type


# ---------------------------------------------------------------- the scaler in a run


class Stop(Exception):
    pass


class StopsAt(Rows):
    """Stops at a boundary, with the state of the trainer as a file would hold it."""

    def __init__(self, trainer, step):
        super().__init__()
        self.trainer, self.step = trainer, step

    def boundary(self):
        if self.trainer.step == self.step:
            file = io.BytesIO()
            torch.save(self.trainer.state_dict(), file)
            self.saved = file.getvalue()
            raise Stop


def stopped_at(number, trainer):
    observer = StopsAt(trainer, number)
    with pytest.raises(Stop):
        trainer.fit(observer)
    return torch.load(io.BytesIO(observer.saved), weights_only=True)


def rescaled(trainer, scale=2.0**22, growth_interval=2):
    """Start from a scale with which gradients overflow for some steps, and let it grow after two good steps."""
    trainer.passes.precision.scaler.load_state_dict(
        {
            "scale": scale,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": growth_interval,
            "_growth_tracker": 0,
        }
    )
    return trainer


def numbers(row):
    return {k: v for k, v in row.items() if not k.startswith("time")}


def test_a_resumed_run_goes_on_with_the_scale():
    plain = rescaled(made("fsam"))
    whole = Rows()
    plain.fit(whole)
    found = stopped_at(5, rescaled(made("fsam")))
    assert found["scaler"]["scale"] < 2.0**22
    resumed, rest = made("fsam"), Rows()
    resumed.load_state_dict(found)
    resumed.fit(rest)
    assert_equal(resumed.model.state_dict(), plain.model.state_dict())
    assert resumed.state_dict()["scaler"] == plain.state_dict()["scaler"]
    assert [numbers(row) for row in rest.rows] == [numbers(row) for row in whole.rows[-len(rest.rows) :]]
    last = whole.rows[-1]
    assert last["train/loss_scale"] == plain.passes.precision.scaler.get_scale()
    assert last["perturbation/skipped_share"] == plain.optimizer.num_nonfinite / plain.step > 0


@pytest.mark.parametrize("variant", ["sgd", "sam_db"])
def test_an_overflow_is_no_divergence(variant):
    """Where the ascent batch overflows, the step has no loss: that is no divergence of the training."""
    trainer = rescaled(made(variant))
    rows = Rows()
    trainer.fit(rows)
    assert trainer.optimizer.num_nonfinite > 0
    assert int(trainer.divergence.at) == -1
    assert rows.rows[-1]["perturbation/skipped_share"] > 0


@pytest.mark.long
def test_measurements_see_the_gradients_of_float32():
    """The EMA and the objective of an fp16 training are unscaled, and nothing is measured in float16."""
    overrides = (
        "diagnostics=full",
        "diagnostics.num_samples=32",
        "diagnostics.max_products=20",
        "diagnostics.num_batches=2",
    )
    trainer, twin = made("fsam", *overrides), made("fsam", *overrides, precision="fp32")
    trainer.fit(Rows())
    state = trainer.state_dict()
    del state["scaler"]
    twin.load_state_dict(state)
    found = trainer.diagnostics.measure(trainer.snapshot())
    assert found == twin.diagnostics.measure(twin.snapshot())
    assert 0.05 < found["perturbation/ema_norm_ratio"] < 20  # the scale is 65536


def test_an_evaluation_sees_no_scale():
    trainer = made("sgd")
    trainer.model.requires_grad_(False)
    loss = trainer.evaluate(trainer.data.val)["loss"]
    twin = made("sgd", precision="fp32")
    assert loss == pytest.approx(twin.evaluate(twin.data.val)["loss"], abs=0.01)


def test_fp16_needs_an_optimizer_with_a_scaler():
    with pytest.raises(ValueError, match="give it grad_scaler="):
        Precision("fp16", torch.device("cpu"), None)


# ---------------------------------------------------------------- TF32


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_tf32_is_refused_on_the_cpu(device):
    def composed_and_started():
        cfg = compose_tiny("optimizer=sgd", "train.precision=tf32", f"train.device={device}").train
        check_device(cfg.precision, torch.device("cpu"))

    with pytest.raises(ConfigError, match=r"train\.precision=tf32: needs a GPU, and .*; use fp32"):
        composed_and_started()
    check_device("tf32", torch.device("cuda"))


def settings():
    backends = torch.backends
    return torch.get_float32_matmul_precision(), backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("name", "expected"), [("tf32", ("high", True, True)), ("fp32", ("highest", False, False)), ("bf16", None)]
)
def test_products_on_a_gpu_follow_the_precision(name, expected):
    """torch's settings need no GPU; its default differs from fp32, since its convolutions use TF32."""
    before = settings()
    with Precision(name, torch.device("cuda"), None).products():
        assert settings() == (expected or ("highest", False, False))
    assert settings() == before == ("highest", False, True)
    with Precision(name, torch.device("cpu"), None).products():
        assert settings() == before
