"""The decomposition against its formulas written out in float64, and what a measurement promises around it."""

import copy
import dataclasses
import math
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.runs import Rows, build_trainer, compose_tiny
from torchvision.transforms.v2 import functional as tv

from fsamlab.axes.reference import ema_weights
from fsamlab.config import ConfigError, DiagnosticsConfig, ImageFolderConfig
from fsamlab.data import Batch, build_data
from fsamlab.data.in_memory import Images, Raw, build_in_memory
from fsamlab.diagnostics import Decomposition, Diagnostics, Objective, measuring, suite
from fsamlab.diagnostics.ema import ema_state
from fsamlab.diagnostics.noise import Sampling, ema_cosine
from fsamlab.optim import ASAM, FSAM, SAM, SAMFullEMA, SharpnessAware

NUM, SIZE, FEATURES, CLASSES = 70, 8, 9, 4
VARIANTS = ("sam", "sam_full", "sam_component", "sam_noise", "sam_db", "random", "fsam")

# ------------------------------------------------------------------------------ a float64 yardstick


class Net(torch.nn.Sequential):
    """No batch norm: a gradient over samples is the mean over them however they are cut."""

    def __init__(self, hidden=5):
        layers = [torch.nn.Flatten(), torch.nn.Linear(FEATURES, hidden), torch.nn.Tanh()]
        super().__init__(*layers, torch.nn.Linear(hidden, CLASSES))
        self.double()

    @staticmethod
    def loss(w, x, y):
        """The mean loss at flat weights, by hand."""
        h = (len(w) - CLASSES) // (FEATURES + 1 + CLASSES)
        w1, b1, w2, b2 = w.split([h * FEATURES, h, CLASSES * h, CLASSES])
        hidden = torch.tanh(x.flatten(1) @ w1.view(h, FEATURES).T + b1)
        logits = hidden @ w2.view(CLASSES, h).T + b2
        return -logits.log_softmax(1)[torch.arange(len(y)), y].mean()


class Convex(torch.nn.Sequential):
    """Logistic regression."""

    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(FEATURES, CLASSES))
        self.double()


def samples(seed=0, num=NUM):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, 1, 3, 3, generator=g, dtype=torch.float64)
    labels = torch.randint(CLASSES, (num,), generator=g)
    images = means[labels] + torch.randn(num, 1, 3, 3, generator=g, dtype=torch.float64)
    return Batch(images, labels, torch.arange(num))


def picked(batch, positions):
    return Batch(batch.images[positions], batch.labels[positions], batch.indices[positions])


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(w, batch):
    w = w.clone().requires_grad_()
    return torch.autograd.grad(Net.loss(w, batch.images, batch.labels), w)[0]


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


class Toy:
    """A trained toy: F-SAM on 5 batches of one epoch, batches to come, and the same EMA by hand."""

    def __init__(self, order="official", ema_init="first_gradient", sigma=1.0, lmbda=0.7, model=Net, steps=5, **more):
        torch.manual_seed(3)
        self.data, self.model = samples(), model()
        choices = {"order": order, "ema_init": ema_init, "sigma": sigma, "lmbda": lmbda, **more}
        self.optimizer = FSAM(list(self.model.parameters()), lr=0.3, momentum=0.5, rho=0.1, **choices)
        self.optimizer.record_scalars = True
        self.lmbda, self.sigma, self.order, self.ema_init = lmbda, sigma, order, ema_init
        shuffled = torch.randperm(NUM, generator=torch.Generator().manual_seed(1))
        chunks = [picked(self.data, p) for p in shuffled.split(SIZE)]
        self.past, self.coming = chunks[:steps], chunks[steps : steps + 3]
        self.m, self.updates = None, 0
        for step, batch in enumerate(self.past):
            if self.optimizer.choices.when.turn(step):
                self.feed(gradient(flat(self.model), batch) if model is Net else None)
            self.optimizer.step(self.closure(batch))

    def feed(self, g):
        """Take g into the EMA, written as the method's text has it."""
        if g is not None:
            old = self.m if self.m is not None else (g if self.ema_init == "first_gradient" else torch.zeros_like(g))
            self.m, self.updates = self.lmbda * old + (1 - self.lmbda) * g, self.updates + 1

    def reference(self, m, updates):
        return m / (1 - self.lmbda**updates) if self.ema_init == "zero_debiased" else m

    def direction(self, g):
        """d for the coming gradient."""
        if self.order == "official":
            return g - self.sigma * self.reference(self.m, self.updates)
        return g - self.sigma * self.reference(self.lmbda * self.m + (1 - self.lmbda) * g, self.updates + 1)

    def closure(self, batch):
        def closure():
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(batch.images), batch.labels)
            loss.backward()
            return loss

        return closure

    def parts(self, probe=None, coming=None, with_ema=True):
        probe = self.data if probe is None else probe
        coming = self.coming if coming is None else coming
        objective = Objective(self.model, [(probe.images, probe.labels)])
        ema = ema_state(self.optimizer, objective) if with_ema else None
        return Decomposition(objective, probe, coming, ema, Sampling(NUM, SIZE, 9))


@pytest.fixture(scope="module")
def toy():
    return Toy()


@pytest.fixture(scope="module")
def probe(toy):
    """60 of the 70 samples in another order: one that does not hold every sample of the batches."""
    return picked(toy.data, torch.randperm(NUM, generator=torch.Generator().manual_seed(8))[:60])


def others_of(probe, coming):
    left_out = {int(i) for b in coming for i in b.indices}
    return picked(probe, torch.tensor([k for k, i in enumerate(probe.indices.tolist()) if i not in left_out]))


def test_cosines_and_sizes(toy, probe):
    w, found = flat(toy.model), toy.parts(probe).cosines()
    g, whole = gradient(w, others_of(probe, toy.coming)), gradient(w, probe)
    batches = [gradient(w, b) for b in toy.coming]
    components = [(b @ g / (g @ g)) * g for b in batches]
    expected = {
        "full_grad_norm": float(whole.norm()),
        "cos_batch_full": fmean(cos(b, g) for b in batches),
        "full_share": fmean(float((c @ c) / (b @ b)) for b, c in zip(batches, components)),
        "projection_norm": fmean(float(c.norm()) for c in components),
        "noise_norm": fmean(float((b - c).norm()) for b, c in zip(batches, components)),
        "cos_ema_full": cos(toy.m, whole),
        "ema_norm_ratio": float(toy.m.norm() / whole.norm()),
        "cos_batch_ema": fmean(cos(b, toy.m) for b in batches),
        "cos_d_full": fmean(cos(toy.direction(b), g) for b in batches),
    }
    predicted = {k for k in found if k.endswith(("_predicted", "_independent"))}
    assert {k: found[k] for k in found if k not in predicted} == pytest.approx(expected, rel=1e-10)
    assert predicted == {"cos_batch_full_predicted", "cos_ema_full_predicted", "cos_ema_full_independent"}
    # known-wrong variants, none of which the tolerance would let pass
    updated = toy.lmbda * toy.m + (1 - toy.lmbda) * batches[0]
    assert cos(updated, whole) != pytest.approx(expected["cos_ema_full"], rel=1e-4)  # m_t
    assert cos(toy.m, g) != pytest.approx(expected["cos_ema_full"], rel=1e-4)  # without the batches' samples
    assert fmean(cos(b, whole) for b in batches) != pytest.approx(expected["cos_batch_full"], rel=1e-3)


def test_without_an_ema_there_is_nothing_of_it(toy, probe):
    parts = toy.parts(probe, with_ema=False)
    found = {**parts.cosines(), **parts.friendliness(0.1, 0), **parts.curvature(0)}
    assert "cos_batch_full" in found
    assert "rise_batch_sam" in found
    assert not [k for k in found if "ema" in k or "fsam" in k or "cos_d" in k]


def test_predictions_come_from_the_noise_of_full_batches(toy, probe):
    parts, w = toy.parts(probe), flat(toy.model)
    noise, found = parts.noise, toy.parts(probe).cosines()
    others = others_of(probe, toy.coming)
    assert noise.batch_size == SIZE
    # every gradient that it can have used is one over SIZE samples, and no two of them share any
    full = [gradient(w, picked(others, p)) for p in torch.arange(len(others)).split(SIZE) if len(p) == SIZE]
    pairs = [[*full], [*full, *(gradient(w, b) for b in toy.coming)]]
    candidates = [fmean(float(a @ b) for i, a in enumerate(gs) for j, b in enumerate(gs) if i != j) for gs in pairs]
    assert any(noise.grad_sq == pytest.approx(c, rel=1e-10) for c in candidates)
    assert found["cos_batch_full_predicted"] == noise.cosine_of(SIZE, len(others))
    weights, steps = ema_weights(5, 0.7, "first_gradient"), torch.arange(5)
    for key, sampling in (
        ("cos_ema_full_predicted", Sampling(NUM, SIZE, 9)),
        ("cos_ema_full_independent", Sampling(NUM, SIZE, 1, independent=True)),
    ):
        expected = ema_cosine(noise, weights, steps, sampling, len(probe))
        assert found[key] == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_rises(toy, probe):
    w, parts, rho, seed = flat(toy.model), toy.parts(probe), 0.3, 17
    found = parts.friendliness(rho, seed)
    rest = others_of(probe, toy.coming)
    g, batches = gradient(w, rest), [gradient(w, b) for b in toy.coming]
    rises = {}
    for k, (batch, b) in enumerate(zip(toy.coming, batches)):
        component = (b @ g / (g @ g)) * g
        directions = {
            "sam": b,
            "sam_full": g,
            "sam_component": component,
            "sam_noise": b - component,
            "sam_db": batches[(k + 1) % 3],
            "random": parts.directions(k, seed)["random"],
            "fsam": toy.direction(b),
        }
        for name, d in directions.items():
            eps = rho * d / d.norm()
            for side, samples_of, slope in (("batch", batch, b), ("other", rest, g)):
                at = [Net.loss(v, samples_of.images, samples_of.labels) for v in (w + eps, w)]
                rises.setdefault(f"rise_{side}_{name}", []).append(float(at[0] - at[1]))
                rises.setdefault(f"rise_{side}_{name}_first_order", []).append(float(eps @ slope))
    assert found == pytest.approx({k: fmean(v) for k, v in rises.items()}, rel=1e-9, abs=1e-14)
    assert torch.equal(flat(toy.model), w)
    # the directions differ by far more than the tolerance; the full gradient and its component are parallel
    assert len({round(v, 5) for k, v in found.items() if k.startswith("rise_batch") and "first" not in k}) == 6


def test_random_directions_are_functions_of_the_seed_and_the_batch(toy):
    parts = toy.parts()
    first, again = (parts.directions(0, 5)["random"] for _ in range(2))
    assert torch.equal(first, again)
    assert abs(cos(first, parts.directions(1, 5)["random"])) < 0.5
    assert abs(cos(first, parts.directions(0, 99)["random"])) < 0.5
    assert first.dtype == torch.float64
    assert float(first.norm()) == pytest.approx(len(first) ** 0.5, rel=0.3)


def test_curvature_along_the_directions(toy, probe):
    w, parts = flat(toy.model), toy.parts(probe)
    found, directions = parts.curvature(4), parts.directions(0, 4)
    rest = others_of(probe, toy.coming)
    dense = torch.autograd.functional.hessian(lambda v: Net.loss(v, rest.images, rest.labels), w)
    assert set(found) == {f"along_{name}" for name in VARIANTS}
    expected = {f"along_{name}": float(d @ dense @ d / (d @ d)) for name, d in directions.items()}
    assert found == pytest.approx(expected, rel=1e-9)
    of_batch = torch.autograd.functional.hessian(lambda v: Net.loss(v, toy.coming[0].images, toy.coming[0].labels), w)
    d = directions["sam"]
    assert float(d @ of_batch @ d / (d @ d)) != pytest.approx(found["along_sam"], rel=1e-3)


def test_a_short_batch_at_the_end_counts_by_its_samples(toy):
    parts = toy.parts(picked(toy.data, torch.arange(67)))
    expected = gradient(flat(toy.model), others_of(picked(toy.data, torch.arange(67)), toy.coming))
    torch.testing.assert_close(parts.rest, expected, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(
        parts.full, gradient(flat(toy.model), picked(toy.data, torch.arange(67))), rtol=1e-11, atol=1e-14
    )


def test_one_sample_more_than_the_noise_needs():
    """Two batches and a sample are left: the last one is joined to the second, which then is no longer of full size."""
    toy = Toy()
    coming = [toy.coming[0], dataclasses.replace(toy.coming[1])]
    for name in ("inputs", "targets", "indices"):  # the two batches, of different epochs, share one sample
        values = getattr(coming[1], name).clone()
        values[0] = getattr(coming[0], name)[0]
        coming[1] = dataclasses.replace(coming[1], **{name: values})
    taken = torch.cat([b.indices for b in coming]).unique()
    left = torch.tensor([i for i in range(NUM) if i not in set(taken.tolist())])[: 2 * SIZE + 1]
    parts = toy.parts(picked(toy.data, torch.cat([taken, left])), coming)
    assert parts.noise.batch_size == SIZE


def test_one_batch_is_not_enough(toy):
    with pytest.raises(ValueError, match="two batches"):
        toy.parts(coming=toy.coming[:1])


# ------------------------------------------------------------- the batch's samples are left out of g


def test_with_the_batches_inside_the_cosines_come_out_too_large():
    inside, outside, predicted = [], [], []
    for seed in range(40):
        torch.manual_seed(seed)
        model, data = Net(), samples(seed)
        objective = Objective(model, [(data.images, data.labels)])
        coming = [picked(data, p) for p in torch.arange(3 * SIZE).split(SIZE)]
        parts = Decomposition(objective, data, coming, None, Sampling(NUM, SIZE, 9))
        found = parts.cosines()
        outside.append(found["cos_batch_full"])
        predicted.append(found["cos_batch_full_predicted"])
        inside.append(fmean(cos(b, parts.full) for b in parts.gradients))
    assert fmean(outside) == pytest.approx(fmean(predicted), abs=0.03)
    assert fmean(inside) > fmean(predicted) + 0.06
    assert fmean(inside) > fmean(outside) + 0.06


# --------------------------------------------------------------------------- m and d of the coming step

STARTS = [
    *[("official", init, sigma) for init in ("first_gradient", "zero", "zero_debiased") for sigma in (0.5, 1.0)],
    *[("paper", init, 0.5) for init in ("first_gradient", "zero", "zero_debiased")],
    ("paper", "zero", 1.0),
]


@pytest.mark.parametrize(("order", "ema_init", "sigma"), STARTS)
@pytest.mark.parametrize("steps", [1, 4])
def test_m_and_d_are_what_the_coming_step_sees(order, ema_init, sigma, steps):
    toy = Toy(order, ema_init, sigma, steps=steps)
    parts = toy.parts()
    g, m = parts.gradients[0], parts.ema.m
    d = parts.ema.direction(g)
    torch.testing.assert_close(m, toy.m, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(d, toy.direction(gradient(flat(toy.model), toy.coming[0])), rtol=1e-11, atol=1e-14)
    updated = toy.lmbda * toy.m + (1 - toy.lmbda) * g
    # now the step itself
    before = flat(toy.model)
    toy.closure(toy.coming[0])()
    toy.optimizer.ascend()
    eps = flat(toy.model) - before
    scalars = {k: float(v) for k, v in toy.optimizer.scalars.items()}
    toy.closure(toy.coming[0])()
    toy.optimizer.descend()
    torch.testing.assert_close(eps, 0.1 * d / d.norm(), rtol=1e-9, atol=1e-13)
    assert scalars["perturbation/cos_ema"] == pytest.approx(cos(g, m), rel=1e-6)
    assert cos(g, updated) > scalars["perturbation/cos_ema"] + 1e-3  # m_t contains g_B
    assert scalars["perturbation/d_ratio"] == pytest.approx(float(d.norm() / g.norm()), rel=1e-6)
    assert scalars["perturbation/cos_eps"] == pytest.approx(cos(d, g), rel=1e-6)
    assert scalars["perturbation/ema_norm"] == pytest.approx(float(m.norm()), rel=1e-6)


def test_d_of_a_variant_without_sigma_is_that_of_sigma_one():
    toy = Toy()
    toy.optimizer = SAMFullEMA(list(toy.model.parameters()), lr=0.1, lmbda=0.7)
    toy.optimizer.step(toy.closure(toy.past[0]))
    ema = ema_state(toy.optimizer, Objective(toy.model, [(toy.data.images, toy.data.labels)]))
    g = gradient(flat(toy.model), toy.coming[0])
    torch.testing.assert_close(ema.direction(g), g - (0.7 * ema.m + 0.3 * g), rtol=1e-11, atol=1e-14)


def test_there_is_no_ema_before_the_first_step_or_without_a_reference():
    assert Toy(steps=0).parts().ema is None
    toy = Toy()
    toy.optimizer = SAM(list(toy.model.parameters()), lr=0.1)
    toy.optimizer.step(toy.closure(toy.past[0]))
    assert toy.parts().ema is None


@pytest.mark.parametrize(("steps", "expected"), [(1, [0]), (2, [0]), (5, [0, 2, 4]), (6, [0, 2, 4]), (7, [0, 2, 4, 6])])
def test_steps_and_weights_where_every_second_step_perturbs(steps, expected):
    toy = Toy(steps=steps, every=2)
    ema = toy.parts().ema
    assert ema.steps.tolist() == expected
    torch.testing.assert_close(ema.weights, ema_weights(len(expected), 0.7, "first_gradient"))
    torch.testing.assert_close(ema.m, toy.m, rtol=1e-12, atol=1e-15)


def test_steps_where_each_micro_batch_feeds_the_ema():
    toy = Toy(steps=0)
    for batch in toy.coming:
        toy.optimizer.step_micro([toy.closure(picked(batch, torch.arange(k, k + 4))) for k in (0, 4)])
    objective = Objective(toy.model, [(toy.data.images, toy.data.labels)])
    ema = ema_state(toy.optimizer, objective, parts=2)
    assert ema.steps.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(ema.weights, ema_weights(6, 0.7, "first_gradient"))


# ------------------------------------------------------------------------------------ what theory says


@pytest.mark.parametrize("seed", range(5))
def test_order_of_the_rises_on_a_convex_problem(seed):
    torch.manual_seed(seed)
    model, data, rho = Convex(), samples(seed), 0.4
    objective = Objective(model, [(data.images, data.labels)])
    coming = [picked(data, p) for p in torch.arange(3 * SIZE).split(SIZE)]
    parts = Decomposition(objective, data, coming, None, Sampling(NUM, SIZE, 9))
    found, cosines = parts.friendliness(rho, seed), parts.cosines()
    first = {k.removesuffix("_first_order"): v for k, v in found.items() if k.endswith("_first_order")}
    names = [v for v in VARIANTS if v != "fsam"]
    assert first["rise_other_sam_noise"] == pytest.approx(0.0, abs=1e-12)  # the noise leaves the others alone
    assert all(first["rise_batch_sam"] >= first[f"rise_batch_{name}"] - 1e-12 for name in names)  # steepest
    assert all(first["rise_other_sam_full"] >= first[f"rise_other_{name}"] - 1e-12 for name in names)
    assert first["rise_batch_sam"] == pytest.approx(rho * fmean(float(b.norm()) for b in parts.gradients), rel=1e-12)
    assert first["rise_other_sam"] == pytest.approx(
        rho * float(parts.rest.norm()) * cosines["cos_batch_full"], rel=1e-9
    )
    assert all(found[key] >= first[key] - 1e-12 for key in first)  # a convex function lies above its tangent
    by_batch = [math.sqrt(1 - cos(b, parts.rest) ** 2) * float(b.norm()) for b in parts.gradients]
    assert first["rise_batch_sam_noise"] == pytest.approx(rho * fmean(by_batch), rel=1e-9)
    # the paper's picture: of a step as long, the noise costs the others least, the full part most
    assert found["rise_other_sam_noise"] < found["rise_other_sam"] < found["rise_other_sam_full"]
    assert all(v >= 0 for v in parts.curvature(seed).values())


# --------------------------------------------------------------------------------------- batch norm


SMALL = ("diagnostics=paper", "diagnostics.every_epochs=null", "diagnostics.every_steps=1", "data.batch_size=16")


def trained(*overrides, steps=7):
    trainer = build_trainer(compose_tiny("optimizer=fsam", *SMALL, *overrides, f"train.max_steps={steps}"))
    trainer.fit(Rows())
    return trainer


def whole_state(trainer):
    tensors = {**trainer.model.state_dict(), "rng": torch.get_rng_state()}
    for i, p in enumerate(trainer.model.parameters()):
        tensors[f"grad{i}"] = p.grad
        tensors.update({f"{k}{i}": v for k, v in trainer.optimizer.state[p].items() if torch.is_tensor(v)})
    flags = {name: m.training for name, m in trainer.model.named_modules()}
    return {k: None if v is None else v.clone() for k, v in tensors.items()}, flags


def test_a_measurement_leaves_everything_as_it_was():
    trainer = trained()
    before, flags = whole_state(trainer)
    values = trainer.diagnostics.measure(trainer.snapshot())
    after, flags_after = whole_state(trainer)
    assert flags == flags_after
    assert before.keys() == after.keys()
    assert any("running_mean" in k for k in before)
    for key, value in before.items():
        assert value is after[key] is None or torch.equal(value, after[key]), key
    assert values == trainer.diagnostics.measure(trainer.snapshot())
    assert all(math.isfinite(v) for v in values.values())


@pytest.fixture
def captured(monkeypatch):
    """The decompositions that measurements make, with what they were given."""
    made = []

    class Captured(Decomposition):
        def __init__(self, objective, probe, batches, *more):
            super().__init__(objective, probe, batches, *more)
            self.probe, self.coming = probe, batches
            made.append(self)

    monkeypatch.setattr(suite, "Decomposition", Captured)
    return made


def test_gradients_are_those_of_training_mode(captured):
    trainer = trained("diagnostics.num_batches=2")
    trainer.diagnostics.measure(trainer.snapshot())
    parts = captured[0]
    batch = next(trainer.data.train.batches(0, start=7))
    assert torch.equal(parts.coming[0].images, batch.images)
    found = []
    for train in (True, False):
        trainer.model.train(train)
        loss = F.cross_entropy(trainer.model(batch.images), batch.labels)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trainer.model.parameters()))]))
    torch.testing.assert_close(parts.gradients[0], found[0], rtol=1e-4, atol=1e-6)
    assert cos(found[1], parts.gradients[0]) < 0.95  # in eval mode it is another gradient


@pytest.mark.parametrize("model", ["small_cnn", "mlp"])
def test_the_coming_step_of_the_trainer(captured, model):
    mlp = ("model.import_path=support.foreign:NoNorm", "model.width=null", "model.name=mlp")
    overrides = mlp if model == "mlp" else ()
    trainer = trained(*overrides, steps=7)
    trainer.last_step = 8  # one more, after measuring
    trainer.diagnostics.measure(trainer.snapshot())
    parts = captured[0]
    g, m = parts.gradients[0], parts.ema.m
    d = parts.ema.direction(g)
    with measuring(trainer.model, batchnorm="batch"):
        rise = parts.batches[0].rise(0.2 * d / d.norm(), parts.losses[0])  # what F-SAM does to its own batch
    trainer.fit(Rows())
    expected = {k.removeprefix("perturbation/"): float(v) for k, v in trainer.scalars.values.items()}
    assert cos(g, m) == pytest.approx(expected["cos_ema"], abs=1e-5)
    assert float(d.norm() / g.norm()) == pytest.approx(expected["d_ratio"], rel=1e-5)
    assert cos(d, g) == pytest.approx(expected["cos_eps"], abs=1e-5)
    assert float(g.norm()) == pytest.approx(expected["grad_norm"], rel=1e-5)
    assert float(m.norm()) == pytest.approx(expected["ema_norm"], rel=1e-5)
    assert float(parts.losses[0].mean()) == pytest.approx(expected["loss_clean"], rel=1e-5)
    assert rise == pytest.approx(expected["loss_perturbed"] - expected["loss_clean"], rel=2e-3)


# ------------------------------------------------------------------------------- what is measured on


def test_coming_batches_run_over_the_end_of_an_epoch_and_are_of_full_size(captured):
    overrides = ("data.num_samples=362", "diagnostics.num_batches=4")  # 170 train: ten batches and one of ten
    trainer = trained(*overrides, steps=9)
    trainer.diagnostics.measure(trainer.snapshot())
    expected = [*list(trainer.data.train.batches(0))[9:10], *list(trainer.data.train.batches(1))[:3]]
    assert len(captured[0].coming) == 4
    for found, batch in zip(captured[0].coming, expected):
        assert torch.equal(found.images, batch.images)
        assert torch.equal(found.indices, batch.indices)


def test_the_measured_samples_are_those_of_the_training_set(captured):
    trainer = trained("diagnostics.num_samples=null")
    trainer.diagnostics.measure(trainer.snapshot())
    indices = captured[0].probe.indices
    assert sorted(indices.tolist()) == list(range(trainer.data.train.num_samples))
    assert torch.equal(captured[0].probe.images, trainer.data.train.at(indices, augmented=True).images)
    sampling = captured[0].sampling
    assert (sampling.num_samples, sampling.batch_size, sampling.steps_per_epoch) == (160, 16, 10)
    assert not sampling.independent


def test_methods_share_the_samples_and_seeds_do_not():
    config = compose_tiny("optimizer=sgd", "diagnostics.num_samples=50")
    first = build_trainer(config).diagnostics
    assert len(first.indices) == len(set(first.indices.tolist())) == 50
    assert len(first.sample_hash) == 16
    for variant in ("fsam", "sam_db"):
        same = build_trainer(compose_tiny(f"optimizer={variant}", "diagnostics.num_samples=50")).diagnostics
        assert torch.equal(same.indices, first.indices)
        assert (same.sample_hash, same.seed) == (first.sample_hash, first.seed)
    other = build_trainer(dataclasses.replace(config, seed=1)).diagnostics
    assert not torch.equal(other.indices, first.indices)
    assert other.sample_hash != first.sample_hash
    assert other.seed != first.seed


# ------------------------------------------------------------------------------------------ at(...)


def both_parts(cfg, seed, device, root):
    """A set whose test part is its training part: what evaluation sees of the training samples."""
    g = torch.Generator().manual_seed(2)
    images = Images(torch.randint(0, 256, (40, 1, 8, 8), generator=g, dtype=torch.uint8), torch.arange(40) % 4)
    return build_in_memory(lambda *_: Raw(images, images, 4), cfg, seed, device, root)


IN_MEMORY = (
    f"data.import_path={__name__}:both_parts",
    "data.test_size=null",
    "data.val_size=0",
    "data.label_noise=0",
    "data.eval_batch_size=7",
    "data.batch_size=8",
    "data.mean=[0.4]",
    "data.std=[0.3]",
    "diagnostics=off",
)


def test_at_in_memory():
    data = build_trainer(compose_tiny(*IN_MEMORY)).data
    indices = torch.tensor([3, 39, 0, 17, 5, 22, 8, 30, 11, 2])
    plain = data.train.at(indices)
    evaluated = {image.numpy().tobytes(): int(y) for b in data.test.batches() for image, y in zip(b.images, b.labels)}
    assert [evaluated[image.numpy().tobytes()] for image in plain.images] == plain.labels.tolist()
    assert torch.equal(plain.indices, indices)
    # they are the samples that training knows by these positions
    unaugmented = build_trainer(compose_tiny(*IN_MEMORY, "data.augment.flip=false", "data.augment.crop_padding=0")).data
    seen = {int(i): image for b in unaugmented.train.batches(0) for i, image in zip(b.indices, b.images)}
    assert all(torch.equal(seen[int(i)], image) for i, image in zip(indices, plain.images))
    augmented, again = data.train.at(indices, augmented=True), data.train.at(indices, augmented=True)
    assert torch.equal(augmented.images, again.images)
    assert torch.equal(augmented.indices, indices)
    assert torch.equal(augmented.labels, plain.labels)
    assert sum(not torch.equal(a, b) for a, b in zip(augmented.images, plain.images)) > 5
    # nor is it the augmentation of any epoch
    for epoch in range(3):
        drawn = {int(i): image for b in data.train.batches(epoch) for i, image in zip(b.indices, b.images)}
        assert sum(not torch.equal(drawn[int(i)], image) for i, image in zip(indices, augmented.images)) > 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, num in (("train", 5), ("val", 1)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(num):
                pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def streamed(root, **fields):
    defaults = {"batch_size": 2, "eval_batch_size": 3, "image_size": 16, "resize": 18, "mean": [0.5], "std": [0.2]}
    cfg = ImageFolderConfig(**{"name": "image_folder", "root": str(root), **defaults, **fields})
    return build_data(cfg, 0, torch.device("cpu"), root)


def test_at_streamed(root):
    data = streamed(root)
    indices = torch.tensor([7, 0, 9, 4])
    plain = data.train.at(indices)
    labels = {int(i): int(y) for b in data.train.batches(0) for i, y in zip(b.indices, b.labels)}
    assert plain.labels.tolist() == [labels[int(i)] for i in indices]
    assert torch.equal(plain.indices, indices)

    def evaluated(path):  # as tests/data/test_streamed.py has it for the test set
        image = tv.pil_to_tensor(tv.resize(Image.open(path).convert("RGB"), 18)).float() / 255
        return tv.normalize(tv.center_crop(image, 16), [0.5] * 3, [0.2] * 3)

    files = {p: evaluated(p) for p in sorted((root / "train").glob("*/*.png"))}
    for image, label in zip(plain.images, plain.labels):
        (match,) = [p for p, expected in files.items() if torch.allclose(expected, image, atol=1e-5)]
        assert match.parent.name == ("cat", "dog")[int(label)]
    augmented, again = data.train.at(indices, augmented=True), data.train.at(indices, augmented=True)
    assert torch.equal(augmented.images, again.images)
    assert all(not torch.equal(a, b) for a, b in zip(augmented.images, plain.images))
    # each sample has its own: neither the others nor the size of the chunks matter
    assert torch.equal(data.train.at(indices[2:], augmented=True).images, augmented.images[2:])
    assert torch.equal(streamed(root, eval_batch_size=9).train.at(indices, augmented=True).images, augmented.images)


def test_a_measurement_of_streamed_pictures(root):
    train = streamed(root).train
    cfg = DiagnosticsConfig(name="x", quantities=["noise", "one_step"], every_epochs=1, num_batches=2)
    assert sorted(Diagnostics(cfg, train, 2, 0).indices.tolist()) == list(range(10))
    with pytest.raises(ConfigError, match="num_batches"):
        Diagnostics(dataclasses.replace(cfg, num_batches=4), train, 2, 0)


# ----------------------------------------------------------------------- due, rho, conventions, refusals


def diagnostics(num=40, batch_size=4, **fields):
    @dataclasses.dataclass
    class Source:
        num_samples: int = num

        def at(self, indices, augmented=False):
            return Batch(torch.zeros(len(indices), 1, 8, 8), indices, indices)

    return Diagnostics(DiagnosticsConfig(**{"name": "x", **fields}), Source(), batch_size, 0)


def test_due():
    twice = diagnostics(quantities=["one_step"], every_epochs=2)
    assert [s for s in range(1, 13) if twice.due(s, 3, 11)] == [6, 11, 12]
    every = diagnostics(quantities=["one_step"], every_epochs=1)
    assert [s for s in range(1, 10) if every.due(s, 3, 9)] == [3, 6, 9]
    assert not any(diagnostics(quantities=["one_step"]).due(s, 3, 9) for s in range(1, 10))
    assert not any(diagnostics().due(s, 3, 9) for s in range(1, 10))


def test_radius_of_the_friendliness_measurement():
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    default, given = diagnostics(rho=0.07), diagnostics(rho=0.07, perturbation_rho=0.3)
    model = torch.nn.Linear(2, 2)
    cases = [
        (SAM(params, rho=0.2, lr=0.1), 0.2),
        (FSAM([{"params": params[:1], "rho": 0.0}, {"params": params[1:], "rho": 0.4}], rho=0.1, lr=0.1), 0.4),
        (ASAM(list(model.parameters()), rho=0.5, lr=0.1, model=model), 0.07),  # its radius is of another metric
        (SharpnessAware(torch.optim.SGD(params, lr=0.1), ascent="none", rho=0.0), 0.07),
    ]
    for optimizer, expected in cases:
        assert default.perturbation_rho(optimizer) == expected
        assert given.perturbation_rho(optimizer) == 0.3


CONVENTIONS = {  # key: (part of the config, field, another value)
    "num_samples": ("diagnostics", "num_samples", 60),
    "sample_hash": (None, "seed", 1),
    "batch_size": ("diagnostics", "batch_size", 20),
    "batchnorm": ("diagnostics", "batchnorm", "batch"),
    "augment": ("diagnostics", "augment", True),
    "rho": ("diagnostics", "rho", 0.3),
    "rho_adaptive": ("diagnostics", "rho_adaptive", 0.3),
    "eta": ("diagnostics", "eta", 0.3),
    "num_parameters": ("model", "width", 5),
    "label_smoothing": ("train", "label_smoothing", 0.1),
    "perturbation_batch_size": ("data", "batch_size", 8),
    "perturbation_rho": ("optimizer", "rho", 0.3),
}
FIXED = {
    "p": 2,
    "parameters": "all trainable",
    "weight_decay": "not in the loss",
    "dropout": "off",
    "dtype": "float32",
    "perturbation_batchnorm": "batch",
    "perturbation_augment": True,
}


def test_conventions_change_with_what_they_describe():
    config = compose_tiny("optimizer=fsam", *SMALL, "diagnostics.num_samples=150", "diagnostics.num_batches=2")
    plain = build_trainer(config).conventions()
    assert plain.keys() >= CONVENTIONS.keys() | FIXED.keys()
    assert {k: plain[k] for k in FIXED} == FIXED
    assert plain["num_samples"] == 150
    for key, (part, field, value) in CONVENTIONS.items():
        other = copy.deepcopy(config)
        setattr(other if part is None else getattr(other, part), field, value)
        changed = build_trainer(other).conventions()
        assert changed.keys() == plain.keys()
        assert changed[key] != plain[key], key
        if key not in ("sample_hash", "num_parameters"):
            assert changed[key] == value
    trainer = build_trainer(config)
    trainer.model.double()
    assert trainer.conventions()["dtype"] == "float64"
    nothing = dataclasses.replace(config.diagnostics, quantities=[], every_epochs=None)
    assert build_trainer(dataclasses.replace(config, diagnostics=nothing)).conventions() == {}


def test_too_few_samples_are_refused_before_anything_runs():
    few = ("optimizer=fsam", "diagnostics=paper", "data.batch_size=32")  # of 160
    with pytest.raises(ConfigError) as raised:
        build_trainer(compose_tiny(*few, "diagnostics.num_batches=4"))
    message = str(raised.value)
    assert message.startswith("diagnostics.num_batches=4: ")
    assert "needs 192" in message
    assert "160" in message
    assert "\n" not in message
    build_trainer(compose_tiny(*few, "diagnostics.num_batches=3"))
    build_trainer(compose_tiny(*few, "diagnostics=light"))  # takes nothing apart


def test_too_much_memory_is_refused(monkeypatch):
    fields = {"quantities": ["one_step"], "num_samples": 30}  # 8 x 8 in float32: 256 bytes each
    monkeypatch.setattr(suite, "MAX_PROBE_BYTES", 30 * 256)
    diagnostics(**fields)
    monkeypatch.setattr(suite, "MAX_PROBE_BYTES", 30 * 256 - 1)
    with pytest.raises(ConfigError, match=r"diagnostics.num_samples=30: so many samples need .* memory"):
        diagnostics(**fields)
    diagnostics(num_samples=30)  # nothing is measured
