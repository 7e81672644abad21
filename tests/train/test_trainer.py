"""The loop: resume bit for bit, rows once each, accumulation, divergence, and an independent plain loop."""

import contextlib
import io

import pytest
import torch
import torch.nn.functional as F
from support.marks import long_but
from support.runs import ADAMW, VARIANTS, build_trainer, compose_tiny

from fsamlab import metrics
from fsamlab.seeding import Stream, derive_seed
from fsamlab.train.divergence import Diverged
from fsamlab.train.schedule import lr_factor

BASED = {v: (v, ()) for v in VARIANTS}
BASED |= {f"{v}-adamw": (v, ADAMW) for v in VARIANTS if v not in ("adamw", "sgd", "sgd_2x")}
MIXED = ("data.augment.mixup=0.8", "data.augment.cutmix=1", "train.label_smoothing=0.1")
BASED |= {f"{v}-mixed": (v, MIXED) for v in ("fsam", "sam_db", "fsam_quarter", "sam_full", "esam")}


class Stop(Exception):
    pass


class Observer:
    """Collects rows; stops at a boundary or at the n-th poll, keeping the state as a file would."""

    def __init__(self, trainer, stop_after=None, stop_at_poll=None):
        self.trainer, self.stop_after, self.stop_at_poll = trainer, stop_after, stop_at_poll
        self.rows, self.polls, self.saved = [], 0, None

    def row(self, row):
        self.rows.append(row)

    def poll(self):
        self.polls += 1
        if self.stop_at_poll is not None and self.polls >= self.stop_at_poll:
            self.stop()

    def stopping(self):
        self.polls += 1
        return self.polls == self.stop_at_poll

    def boundary(self):
        if self.trainer.step == self.stop_after:
            self.stop()

    def stop(self):
        buffer = io.BytesIO()
        torch.save(self.trainer.state_dict(), buffer)
        self.saved = buffer.getvalue()
        raise Stop


def train(*overrides, **stop):
    trainer = build_trainer(compose_tiny(*overrides))
    observer = Observer(trainer, **stop)
    with contextlib.suppress(Stop):
        trainer.fit(observer)
    return trainer, observer


def go_on(saved, *overrides):
    trainer = build_trainer(compose_tiny(*overrides))
    trainer.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
    observer = Observer(trainer)
    trainer.fit(observer)
    return trainer, observer


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def timeless(rows):
    return [{k: v for k, v in row.items() if not k.startswith("time")} for row in rows]


def assert_goes_on_as(whole, seen, stopped, *overrides):
    """The rest of a training that was stopped ends in the weights and rows of the undisturbed one; return it."""
    resumed, rest = go_on(stopped.saved, *overrides)
    assert_same(weights(resumed), weights(whole))
    assert timeless(stopped.rows + rest.rows) == timeless(seen.rows)
    return resumed


@pytest.mark.parametrize("which", long_but(("sam", "fsam", "fsam-adamw", "fsam-mixed", "sam_full", "sam_db"), BASED))
def test_stop_and_resume_is_bit_identical(which):
    variant, base = BASED[which]
    overrides = (f"optimizer={variant}", *base, "diagnostics.every_steps=4")
    whole, seen = train(*overrides)
    steps = whole.total_steps
    for stop_after in (1, steps // 2 + 1, steps - 1):  # the middle one lies inside an epoch
        _, first = train(*overrides, stop_after=stop_after)
        resumed = assert_goes_on_as(whole, seen, first, *overrides)
        assert whole.optimizer.num_steps == resumed.optimizer.num_steps == steps


@pytest.mark.parametrize("variant", long_but(("fsam",), ["sgd", "fsam", "sam_full", "sam_component", "sam_noise"]))
def test_a_stop_inside_an_evaluation_or_a_full_gradient_pass(variant):
    overrides = (f"optimizer={variant}", "data.eval_batch_size=16", "diagnostics.every_steps=4")
    whole, seen = train(*overrides)
    for poll in (2, 9, seen.polls // 2, seen.polls - 1):
        _, first = train(*overrides, stop_at_poll=poll)
        assert first.saved is not None
        assert_goes_on_as(whole, seen, first, *overrides)


def test_the_resume_test_can_fail():
    _, first = train("optimizer=fsam", stop_after=5)
    state = torch.load(io.BytesIO(first.saved), weights_only=True)
    for entry in state["optimizer"]["state"].values():
        entry["ema"].zero_()
    trainer = build_trainer(compose_tiny("optimizer=fsam"))
    trainer.load_state_dict(state)
    trainer.fit(Observer(trainer))
    whole, _ = train("optimizer=fsam")
    with pytest.raises(AssertionError):
        assert_same(weights(trainer), weights(whole))


@pytest.mark.parametrize("variant", ["fsam", "sam_noise", "random"])
def test_recording_changes_no_weight(variant):
    off, _ = train(f"optimizer={variant}", "diagnostics=off")
    light, seen = train(f"optimizer={variant}", "diagnostics=light", "diagnostics.every_steps=1")
    assert_same(weights(off), weights(light))
    assert all("perturbation/cos_eps" in row for row in seen.rows)


FULL = ("diagnostics=full", "diagnostics.num_batches=2", "diagnostics.max_products=7", "diagnostics.num_probes=2",
        "diagnostics.num_ascent_steps=2", "diagnostics.num_pairs=2", "diagnostics.every_epochs=1")  # fmt: skip


@pytest.mark.parametrize(
    "variant", long_but(("fsam",), ["sgd", "fsam", "sam_full_ema", "sam_noise", "sam_db", "random", "asam"])
)
def test_measuring_changes_no_weight(variant):
    off, _ = train(f"optimizer={variant}", "diagnostics=off")
    for how in (
        ("diagnostics=light", "diagnostics.every_epochs=1"),
        FULL,
        (*FULL, "diagnostics.batchnorm=reestimated"),
    ):
        measured, seen = train(f"optimizer={variant}", *how)
        assert_same(weights(off), weights(measured))
        assert sum("sharpness/one_step" in row for row in seen.rows) == 2


@pytest.mark.parametrize("variant", long_but(("fsam",), ["fsam", "sam_noise"]))
def test_a_stop_inside_a_measurement(variant):
    overrides = (f"optimizer={variant}", *FULL, "train.epochs=1", "data.num_samples=256", "data.batch_size=16")
    whole, seen = train(*overrides)
    for poll in range(3, seen.polls, seen.polls // 4):
        _, first = train(*overrides, stop_at_poll=poll)
        assert first.saved is not None
        assert_goes_on_as(whole, seen, first, *overrides)


def test_what_is_measured_when():
    _, seen = train("optimizer=fsam", *FULL, "diagnostics.every_epochs=2", "train.epochs=3")
    assert [row["step"] for row in seen.rows if "sharpness/one_step" in row] == [10, 15]  # epoch 2, and the end


def test_the_batch_losses_stand_beside_the_scalars():
    _, seen = train("optimizer=fsam", "diagnostics.every_steps=1", "train.max_steps=3")
    first = seen.rows[0]
    assert first["perturbation/loss_clean"] == first["train/loss"]
    assert first["perturbation/loss_perturbed"] == first["train/loss_perturbed"]
    assert first["perturbation/loss_perturbed"] > first["perturbation/loss_clean"]


def test_the_summary_has_what_was_measured_and_how():
    trainer, seen = train("optimizer=fsam", *FULL)
    assert trainer.summary()["final/curvature/lambda_max"] == seen.rows[-1]["curvature/lambda_max"]
    assert trainer.conventions()["batchnorm"] == "eval"
    assert train("optimizer=fsam", "diagnostics=off")[0].conventions() == {}


def test_recording_and_every_do_not_miss_each_other():
    _, seen = train("optimizer=fsam", "optimizer.every=2", "diagnostics.every_steps=4")
    assert sum("perturbation/cos_eps" in row for row in seen.rows) == 2


@pytest.mark.parametrize("variant", ["sgd", "fsam"])
def test_equals_a_plain_loop_bit_for_bit(variant):
    """The same training written out: a refactor of the trainer must not move one bit of the loss."""
    config = compose_tiny(f"optimizer={variant}")
    trainer = build_trainer(config)
    trainer.fit(Observer(trainer))

    plain = build_trainer(config)  # for its model and data
    model, data, train_cfg = plain.model, plain.data, config.train
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    ema, losses, step = {}, [], 0
    total = train_cfg.epochs * data.train.num_batches()
    for epoch in range(train_cfg.epochs):
        for batch in data.train.batches(epoch):
            torch.manual_seed(derive_seed(0, Stream.STEP, step))
            base.param_groups[0]["lr"] = 0.05 * lr_factor(train_cfg, step, total, 0)
            base.zero_grad()
            model.train()
            loss = F.cross_entropy(model(batch.images), batch.labels)
            loss.backward()
            losses.append(loss.item() * len(batch.labels))
            if variant == "fsam":
                fsam_ascent(model, ema, rho=0.2, lmbda=0.9, batch=batch)
            base.step()
            step += 1
    n = data.train.num_samples
    epoch_losses = [sum(losses[i : i + total // 2]) / n for i in range(0, total, total // 2)]
    rows = []
    again = build_trainer(config)
    observer = Observer(again)
    again.fit(observer)
    rows = [row["train/loss"] for row in observer.rows if "val/acc1" in row or "test/acc1" in row]
    if variant == "sgd":
        assert rows == epoch_losses
        assert_same(weights(trainer), weights(plain))
    else:  # the direction's rounding depends on the order of operations
        assert rows == pytest.approx(epoch_losses, rel=1e-4)


def fsam_ascent(model, ema, rho, lmbda, batch):
    g = [p.grad.clone() for p in model.parameters()]
    m = ema.get("m")
    d = [a - b for a, b in zip(g, m)] if m else g
    ema["m"] = [lmbda * b + (1 - lmbda) * a for a, b in zip(g, m)] if m else g
    norm = torch.sqrt(sum((x.double() ** 2).sum() for x in d)).float()
    saved = [p.detach().clone() for p in model.parameters()]
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    with torch.no_grad():
        for p, x in zip(model.parameters(), d):
            p.add_(x * (rho / norm))
    model.zero_grad()
    F.cross_entropy(model(batch.images), batch.labels).backward()
    with torch.no_grad():
        for p, s in zip(model.parameters(), saved):
            p.copy_(s)
        for k, v in model.named_buffers():
            v.copy_(buffers[k])


MLP = ("model.import_path=support.foreign:NoNorm", "model.width=null", "model.name=mlp")


@pytest.mark.parametrize("variant", ["sgd", "sam", "fsam"])
def test_joint_accumulation_is_one_big_batch(variant, monkeypatch):
    one, _ = train(f"optimizer={variant}", *MLP)
    four, _ = train(f"optimizer={variant}", *MLP, "train.accumulate_steps=4")
    for a, b in zip(weights(one).values(), weights(four).values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_share_of_each_batch_is_its_ascent_batch(drop_last):
    trainer = build_trainer(
        compose_tiny("optimizer=fsam_quarter", "data.batch_size=30", f"data.drop_last={str(drop_last).lower()}")
    )
    found = []

    def closure(parts, sums):
        found.append(parts)
        return trainer_closure(parts, sums)

    trainer_closure, trainer.passes.closure = trainer.passes.closure, closure
    for batch in trainer.data.train.batches(0):
        found.clear()
        trainer._step(batch)
        ((_, descent),), ((_, ascent),) = found
        assert torch.equal(descent.indices, batch.indices)
        assert torch.equal(ascent.indices, batch.indices[: max(1, round(len(batch) / 4))])
        assert torch.equal(ascent.inputs, batch.inputs[: len(ascent)])
    assert len(batch) == (30 if drop_last else 10)


def test_an_ascent_batch_is_one_part_where_no_gradients_are_accumulated(monkeypatch):
    """Also where it is larger than the descent batch."""
    trainer = build_trainer(compose_tiny("optimizer=sam_batch", "optimizer.ascent_batch_size=50"))
    made = []
    monkeypatch.setattr(trainer.passes, "closure", lambda pieces, sums: made.append(pieces))
    batch = next(trainer.data.train.batches(0))
    trainer.passes.ascent_closure(trainer.passes.ascent_batch_of(batch, batch, 0), batch.size, 0)
    assert [len(part) for _, part in made[0]] == [50]


@pytest.mark.parametrize(("share", "parts"), [(0.25, 1), (0.5, 2), (1.0, 4), (2.0, 8)])
def test_no_part_of_an_ascent_batch_is_larger_than_a_micro_batch(share, parts, monkeypatch):
    trainer = build_trainer(
        compose_tiny("optimizer=fsam_quarter", f"optimizer.ascent_share={share}", "train.accumulate_steps=4")
    )
    batch = next(trainer.data.train.batches(0))
    made = []
    monkeypatch.setattr(trainer.passes, "closure", lambda pieces, sums: made.append(pieces))
    trainer.passes.ascent_closure(trainer.passes.ascent_batch_of(batch, batch, 0), batch.size, 0)
    assert [len(part) for _, part in made[0]] == [8] * parts


def test_one_perturbation_per_micro_batch_is_another_algorithm():
    joint, _ = train("optimizer=fsam", *MLP, "train.accumulate_steps=4")
    micro, seen = train("optimizer=fsam", *MLP, "train.accumulate_steps=4", "train.accumulate_mode=per_micro_batch")
    assert not torch.allclose(*(next(iter(weights(t).values())) for t in (joint, micro)), rtol=1e-3, atol=1e-4)
    assert all("train/loss_perturbed" in row for row in seen.rows)


@pytest.mark.parametrize("mode", ["joint", "per_micro_batch"])
def test_with_lr_zero_the_weights_do_not_move(mode):
    overrides = ("optimizer=fsam", "optimizer.lr=0", "train.accumulate_steps=4", f"train.accumulate_mode={mode}")
    trainer, _ = train(*overrides, *MLP)
    assert_same(weights(trainer), weights(build_trainer(compose_tiny(*overrides, *MLP))))


@pytest.mark.parametrize("variant", ["sgd", "fsam", "sam_db"])
def test_divergence_names_its_step(variant):
    trainer = build_trainer(
        compose_tiny(f"optimizer={variant}", "optimizer.lr=1e6", "optimizer.weight_decay=1e6", *MLP)
    )
    with pytest.raises(Diverged, match=r"diverged at step \d+"):
        trainer.fit(Observer(trainer))
    assert trainer.step < 10


def test_divergence_can_be_lived_with():
    trainer, _ = train(
        "optimizer=sgd", "optimizer.lr=1e6", "optimizer.weight_decay=1e6", "train.on_divergence=continue", *MLP
    )
    assert trainer.step == trainer.total_steps


@pytest.mark.parametrize(
    "overrides", [("train.precision=bf16",), ("train.channels_last=true",), ("train.label_smoothing=0.1",)]
)
def test_other_settings_train(overrides):
    trainer, seen = train("optimizer=fsam", *overrides)
    assert seen.rows[-1]["train/loss"] < seen.rows[0]["train/loss"]
    assert next(iter(trainer.model.parameters())).dtype == torch.float32


@pytest.mark.long
def test_batchnorm_counts_each_descent_batch_once():
    for variant in VARIANTS:
        trainer, _ = train(f"optimizer={variant}", "train.max_steps=3")
        counted = {int(v) for k, v in trainer.model.state_dict().items() if k.endswith("num_batches_tracked")}
        assert counted == {3}, variant


def test_loss_keys_say_where_they_were_taken():
    for variant, present in (("sgd", {"loss"}), ("fsam", {"loss", "loss_perturbed"}), ("sam_db", {"loss_perturbed"})):
        _, seen = train(f"optimizer={variant}", "train.max_steps=3")
        found = {k.removeprefix("train/") for k in seen.rows[-1] if k.startswith("train/loss")}
        assert found == present


@pytest.mark.parametrize("variant", long_but(["fsam"], ["sgd", "fsam", "sam_noise", "sam_db"]))
def test_every_logged_key_has_a_row_in_the_metric_table(variant):  # whose rows are those of docs/metrics.md
    trainer, seen = train(f"optimizer={variant}", *FULL, "diagnostics.every_steps=1", "train.epochs=1")
    keys = {k.removeprefix("final/").removeprefix("best/") for k in trainer.summary()}.union(*seen.rows)
    keys |= {f"diagnostics/{k}" for k in trainer.conventions()}
    assert len(keys) > 60
    assert sorted(keys - {row.key for row in metrics.ROWS}) == []
