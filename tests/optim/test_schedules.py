"""Choices that go by the share of training: the part of the training that perturbs, and the radius of a step."""

import copy
import io
from dataclasses import dataclass

import pytest
import torch
from support.runs import build_trainer, compose_tiny
from support.steps import closure_of
from torch import nn

from fsamlab.axes import Radius
from fsamlab.config import ConfigError
from fsamlab.optim import SAM, SharpnessAware, reference

TOTAL = 16


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model, optimizer, steps):
    """Return the number of passes of each step, and the weights."""
    passes = []
    for k in steps:
        closure, calls = closure_of(model, k, optimizer.zero_grad), []
        optimizer.step(lambda closure=closure, calls=calls: (calls.append(1), closure())[1])
        passes.append(len(calls))
    return passes, torch.cat([p.detach().flatten() for p in model.parameters()])


# start, stop


def test_a_window_perturbs_in_its_own_steps_alone_and_counts_every_from_its_start():
    model = network()
    optimizer = SAM(sgd(model), rho=0.1, every=2, start=0.3, stop=0.7, total_steps=TOTAL, model=model)
    passes, _ = train(model, optimizer, range(TOTAL))
    assert [k for k, n in enumerate(passes) if n == 2] == [5, 7, 9]  # from round(4.8) to before round(11.2)
    assert optimizer.choices.when.past(16, 2) == [7, 9]
    assert optimizer.choices.when.past(8, 2) == [5, 7]


@pytest.mark.parametrize("descent", ["perturbed", "look"])
def test_steps_outside_the_window_are_those_of_the_base(descent):
    a, b = network(), network()
    optimizer = SharpnessAware(sgd(a), rho=0.1, descent=descent, every=2, start=0.25, stop=0.5, total_steps=TOTAL)
    base = sgd(b)

    def plain(steps):
        for k in steps:
            base.zero_grad()
            closure_of(b, k)()
            base.step()
        return torch.cat([p.detach().flatten() for p in b.parameters()])

    assert torch.equal(train(a, optimizer, range(4))[1], plain(range(4)))
    train(a, optimizer, range(4, 8))
    b.load_state_dict(a.state_dict())
    base.load_state_dict(copy.deepcopy(optimizer.base.state_dict()))
    assert torch.equal(train(a, optimizer, range(8, 12))[1], plain(range(8, 12)))


def test_a_share_of_training_needs_the_length_of_the_training():
    model = network()
    SAM(sgd(model), start=0.0, stop=1.0)
    with pytest.raises(ConfigError, match=r"^total_steps=null: when=every as set goes by the share of training: give"):
        SAM(sgd(model), start=0.5)
    with pytest.raises(ConfigError, match=r"^total_steps=0: must be finite and >= 1"):
        SAM(sgd(model), start=0.5, total_steps=0)
    with pytest.raises(ConfigError, match=r"^stop=0.5: must be > start, which is 0.5"):
        SAM(sgd(model), start=0.5, stop=0.5, total_steps=9)


def test_a_training_goes_on_bit_for_bit_and_a_state_of_another_length_is_refused():
    def make(model, total_steps=TOTAL):
        return SAM(sgd(model), rho=0.1, start=0.25, stop=0.75, total_steps=total_steps, model=model)

    model = network()
    optimizer = make(model)
    train(model, optimizer, range(3))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    other = copy.deepcopy(model)
    resumed = make(other)
    resumed.load_state_dict(state)
    told = copy.deepcopy(model)
    by_its_state = SAM(sgd(told), model=told)  # start, stop and the length come with the state
    by_its_state.load_state_dict(copy.deepcopy(state))
    whole = train(model, optimizer, range(3, TOTAL))
    for found in (train(other, resumed, range(3, TOTAL)), train(told, by_its_state, range(3, TOTAL))):
        assert found[0] == whole[0]
        assert torch.equal(found[1], whole[1])
    with pytest.raises(ValueError, match=r"a training of 16 steps .* total_steps is 20 here: give total_steps=16"):
        make(network(), total_steps=20).load_state_dict(state)


def test_the_trainer_gives_its_own_number_of_steps():
    trainer = build_trainer(compose_tiny("optimizer=sam", "optimizer.start=0.5", "train.epochs=3", "train.max_steps=2"))
    assert trainer.optimizer.choices.total_steps == trainer.total_steps == 3 * trainer.steps_per_epoch


def test_a_window_without_a_perturbation_is_refused():
    with pytest.raises(ConfigError, match=r"^optimizer\.start=0\.5: has no effect in optimizer=sgd"):
        compose_tiny("optimizer=sgd", "optimizer.start=0.5")


# radius


def lengths(model, optimizer, steps, scheduler=None):
    """Return |eps| of each group in each step, and the radius that each step records."""
    moved, recorded = [], []
    for k in steps:
        before = [p.detach().clone() for p in optimizer.parameters()]
        seen = []

        def closure(before=before, seen=seen, k=k):
            eps = iter([p.detach() - b for p, b in zip(optimizer.parameters(), before)])
            of_groups = [torch.cat([next(eps).flatten() for _ in group["params"]]) for group in optimizer.param_groups]
            seen.append([float(x.norm()) for x in of_groups])
            return closure_of(model, k, optimizer.zero_grad)()

        optimizer.record_scalars = True
        optimizer.step(closure)
        moved.append(seen[-1])
        recorded.append(
            float(optimizer.scalars["perturbation/rho"]) if "perturbation/rho" in optimizer.scalars else None
        )
        if scheduler is not None:
            scheduler.step()
    return moved, recorded


def test_the_radius_of_gsam_follows_lr_through_warm_up_and_cosine():
    model, rho_max, rho_min, peak, lowest = network(), 0.4, 0.1, 0.2, 0.02
    base = torch.optim.SGD(model.parameters(), lr=peak)
    choices = {"radius": "lr", "radius_end": rho_min / rho_max, "lr_min": lowest / peak}
    optimizer = SharpnessAware(base, rho=rho_max, descent="surrogate_gap", model=model, **choices)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=lowest)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [3])
    for k in range(12):
        lr = optimizer.param_groups[0]["lr"]
        expected = reference.gsam_radius(lr, lowest, peak, rho_min, rho_max)
        ((length,),), (recorded,) = lengths(model, optimizer, [k], scheduler)
        assert length == pytest.approx(expected, rel=1e-9)
        assert recorded == pytest.approx(expected, rel=1e-12)


def test_a_radius_that_follows_lr_has_to_know_the_peak():
    model = network()
    optimizer = SAM(sgd(model), radius="lr")
    with pytest.raises(
        ConfigError, match=r"^radius=lr: needs the peak of lr in each group, as initial_lr: a torch sch"
    ):
        train(model, optimizer, [0])
    for group in optimizer.param_groups:
        group["max_lr"] = 0.4  # as torch's OneCycleLR says it
    assert optimizer.step_radii() == pytest.approx([0.05 * 0.1 / 0.4])


def test_radii_of_groups_scale_alike_and_a_scheduler_of_rho_still_works():
    model = network()
    groups = [{"params": model[0].parameters(), "rho": 0.4}, {"params": model[2].parameters(), "rho": 0.0}]
    optimizer = SAM(torch.optim.SGD(groups, lr=0.1), radius="linear", total_steps=8, model=model)
    moved, recorded = lengths(model, optimizer, range(4))
    assert [first for first, _ in moved] == pytest.approx([0.4, 0.35, 0.3, 0.25])
    assert recorded == pytest.approx([0.4, 0.35, 0.3, 0.25])
    assert all(second == 0 for _, second in moved)
    optimizer.param_groups[1]["rho"] = 0.8
    (moved,), (recorded,) = lengths(model, optimizer, [4])
    assert optimizer.step_radii() == [0.4 * 3 / 8, 0.8 * 3 / 8]  # of the next step
    assert recorded == pytest.approx(0.4)
    assert moved[1] > 0


def test_a_constant_radius_records_none():
    model = network()
    assert lengths(model, SAM(sgd(model), rho=0.3), range(2)) == ([[pytest.approx(0.3)]] * 2, [None] * 2)


def test_a_radius_of_zero_is_a_plain_step():
    model = network()
    optimizer = SAM(sgd(model), rho=0.1, radius="linear", radius_start=0.0, radius_end=1.0, total_steps=9)
    assert train(model, optimizer, range(3))[0] == [1, 2, 2]


def test_a_radius_needs_the_length_of_the_training_and_goes_on_from_a_state():
    with pytest.raises(ConfigError, match=r"^total_steps=null: radius=cosine as set goes by the share of training"):
        SAM(sgd(network()), radius="cosine")
    model = network()
    optimizer = SAM(sgd(model), rho=0.3, radius="cosine", total_steps=9)
    train(model, optimizer, range(4))
    other = copy.deepcopy(model)
    resumed = SAM(sgd(other), rho=0.3, radius="cosine", total_steps=9)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(train(model, optimizer, range(4, 9))[1], train(other, resumed, range(4, 9))[1])
    with pytest.raises(ValueError, match="radius=cosine there, constant here"):
        SAM(sgd(network())).load_state_dict(optimizer.state_dict())


@dataclass
class Doubled(Radius):
    """Twice the rho, from outside the package."""

    def factor(self, number, group):
        return 2.0


def test_a_radius_of_ones_own():
    model = network()
    assert lengths(model, SAM(sgd(model), rho=0.3, radius=Doubled), [0])[1] == [0.6]


def test_a_run_follows_the_schedule_of_lr_and_logs_the_radius():
    overrides = ("train.epochs=2", "train.warmup_epochs=1", "diagnostics=light", "diagnostics.every_steps=1")
    config = compose_tiny("optimizer=gsam", "optimizer.radius=lr", "optimizer.radius_end=0.2", *overrides)
    trainer, rows = build_trainer(config), []

    class Observer:
        def poll(self):
            pass

        def stopping(self):
            return False

        def row(self, row):
            rows.append(row)

        def boundary(self):
            pass

    trainer.fit(Observer())
    found = [(row["train/lr"], row["perturbation/rho"]) for row in rows if "perturbation/rho" in row]
    assert len(found) > 3
    for lr, rho in found:
        expected = reference.gsam_radius(lr, 0, config.optimizer.lr, 0.2 * config.optimizer.rho, config.optimizer.rho)
        assert rho == pytest.approx(expected)


# radii by the gradient


def test_a_loss_budget_is_the_rise_to_first_order_also_where_groups_have_radii_of_their_own():
    model = network()
    groups = [{"params": model[0].parameters(), "rho": 0.4}, {"params": model[2].parameters(), "rho": 0.1}]
    choices = {"radius": "loss_budget", "budget": 0.01, "budget_warmup": 0.0, "budget_decay": 1.0}
    optimizer = SharpnessAware(torch.optim.SGD(groups, lr=0.1), **choices)
    closure_of(model, 0)()
    before = [p.detach().clone() for p in model.parameters()]
    g = [p.grad.clone() for p in model.parameters()]
    optimizer.record_scalars = True
    optimizer.ascend()
    eps = [p.detach() - w for p, w in zip(model.parameters(), before)]
    assert reference.dot(g, eps) == pytest.approx(0.01, rel=1e-9)
    ratios = [float((e / x).mean()) for e, x in zip(eps, g)]
    assert ratios == pytest.approx([4 * ratios[2]] * 2 + [ratios[2]] * 2)
    assert float(optimizer.scalars["perturbation/rho"]) == pytest.approx(reference.norm(g) * ratios[0])
    optimizer.restore()
    optimizer.choices.radius.budget = 100.0  # more than the largest radius rises
    closure_of(model, 0, optimizer.zero_grad)()
    optimizer.ascend()
    assert float(optimizer.scalars["perturbation/rho"]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (
            {"radius": "unified", "metric": "unnormalised", "mix": 0.5},
            r"^radius=unified: sets the length of eps, and me",
        ),
        ({"radius": "unified"}, r"^mix=null: has to be set with radius=unified"),
        ({"radius": "unified", "mix": 0.5, "mix_schedule": "1/t"}, r"^mix=0.5: has no effect beside mix_schedule=1/t"),
        ({"radius": "loss_budget", "budget_warmup": 0.9}, r"^budget_decay=0.8: must be >= budget_warmup=0.9"),
        ({"radius": "loss_budget"}, r"^total_steps=null: radius=loss_budget as set goes by the share"),
        (
            {"radius": "loss_budget", "ascent": "some_tensors", "total_steps": 9},
            r"^radius=loss_budget: bounds the rise of one ascent step .* ascent=some_tensors does not make",
        ),
        ({"radius": "unified", "mix": 0.5, "ascent": "momentum"}, r"^radius=unified: follows the length of a gradient"),
        ({"start": 0.4, "stop": 0.41, "total_steps": 6}, r"^stop=0.41: leaves no step of 6 between start=0.4 and stop"),
        ({"start": 0.99, "total_steps": 6}, r"^stop=1.0: leaves no step of 6 between start=0.99 and stop"),
        (
            {"ascent": "some_tensors", "swp_norm": "all", "metric": "adaptive"},
            r"^swp_norm=all: needs metric=l2 and component=all",
        ),
        ({"when": "adaptive"}, r"^total_steps=null: when=adaptive as set goes by the share of training"),
        (
            {"when": "adaptive", "ascent": "gaussian", "total_steps": 9},
            r"^when=adaptive: needs the gradient of the desc",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_in_a_line(choices, said):
    with pytest.raises(ConfigError, match=said):
        SharpnessAware(sgd(network()), **choices)


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_the_ends_of_unified_sam_are_usam_and_sam(mix):
    a, b = network(), network()
    unified = SharpnessAware(sgd(a), rho=0.1, radius="unified", mix=mix)
    other = SharpnessAware(sgd(b), rho=0.1, metric="l2" if mix else "unnormalised")
    torch.testing.assert_close(train(a, unified, range(5))[1], train(b, other, range(5))[1], rtol=1e-12, atol=1e-14)


# when=adaptive


def test_an_adaptive_step_has_a_second_pass_where_it_perturbs_and_the_share_is_logged():
    model = network()
    optimizer = SharpnessAware(sgd(model), rho=0.1, when="adaptive", total_steps=TOTAL, model=model)
    rule = reference.AESAM(TOTAL, 0.9, -1.0, 1.0)
    passes = []
    for k in range(TOTAL):
        closure_of(model, k, optimizer.zero_grad)()
        decided = rule.perturbs([p.grad for p in model.parameters()])
        passes += train(model, optimizer, [k])[0]
        assert passes[-1] == 1 + decided
    assert 0 < passes.count(2) < TOTAL
    assert optimizer.choices.logged(TOTAL) == {"perturbation/perturbed_share": passes.count(2) / TOTAL}


def test_a_step_that_is_left_out_leaves_the_averages_of_an_adaptive_step_alone():
    model = network()
    optimizer = SharpnessAware(sgd(model), rho=0.1, when="adaptive", every=2, total_steps=TOTAL, model=model)
    train(model, optimizer, range(2))
    kept = optimizer.choices.state()["values"]

    def bad():
        for p in model.parameters():
            p.grad = torch.full_like(p, torch.inf)
        return torch.zeros(())

    optimizer.step(bad)
    assert optimizer.num_nonfinite == 1
    train(model, optimizer, [3])  # not its turn
    assert optimizer.choices.state()["values"] == kept
