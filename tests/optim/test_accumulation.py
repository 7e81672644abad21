"""Gradient accumulation outside a closure: two phases that end with step(); a closure that would forget batches."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from support.marks import long_but
from support.runs import VARIANTS, compose_tiny
from support.steps import batch, closure_of, plain_closure, sample_closure_of
from torch import nn
from torch.utils.checkpoint import checkpoint

from fsamlab.optim import FSAM, SAM, RandomSAM, build_optimizer, frozen_batchnorm

MAKERS = {"sam": SAM, "fsam": FSAM}
MICRO = 4
STEPS = 5


def made(make=FSAM, norm=False, **keywords):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).double()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    return model, make(base, rho=0.3, model=model, **keywords)


def micro_batches(model, k):
    """Return the closures of one step: each adds its share of the gradient."""
    x, y = batch(k)

    def share(x, y):
        loss = F.cross_entropy(model(x.double()), y) / MICRO
        loss.backward()
        return loss

    return [lambda x=x, y=y: share(x, y) for x, y in zip(x.chunk(MICRO), y.chunk(MICRO))]


def joint(model, optimizer, k):
    """One step on all samples of the step at once."""

    def closure():
        optimizer.zero_grad()
        return plain_closure(model, k)()

    return optimizer.step(closure)


def inside(model, optimizer, k):
    """One step whose closure runs the micro-batches."""

    def closure():
        optimizer.zero_grad()
        return sum(run().detach() for run in micro_batches(model, k))

    return optimizer.step(closure)


def outside(model, optimizer, k, end=lambda model, optimizer: optimizer.step()):
    """The step of a framework: backward passes first, the optimizer at the end."""
    runs = micro_batches(model, k)
    for run in runs:
        run()
    optimizer.ascend()
    with frozen_batchnorm(model):
        for run in runs:
            run()
    end(model, optimizer)
    optimizer.zero_grad()


def last_in_step(model, optimizer, k):
    """The same, with the last micro-batch of the second pass in a closure."""
    *others, last = micro_batches(model, k)
    for run in (*others, last):
        run()
    optimizer.ascend()
    with frozen_batchnorm(model):
        for run in others:
            run()
    loss = optimizer.step(last)
    assert loss == optimizer.scalars["loss_perturbed"] > 0
    optimizer.zero_grad()


def trained(step, make=FSAM, norm=False, wrap=lambda model: model, **keywords):
    model, optimizer = made(make, norm, **keywords)
    run = wrap(model)
    for k in range(STEPS):
        step(run, optimizer, k)
    return model.state_dict(), optimizer


def assert_close(a, b, atol=1e-13):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=atol)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("step", [inside, outside, last_in_step])
def test_accumulation_is_the_joint_batch(name, step):
    accumulated, optimizer = trained(step, MAKERS[name])
    whole, other = trained(joint, MAKERS[name])
    assert_close(accumulated, whole)
    assert optimizer.num_steps == other.num_steps == STEPS


@pytest.mark.parametrize("step", [outside, last_in_step])
def test_running_statistics_count_each_micro_batch_once(step):
    assert_close(trained(step, norm=True)[0], trained(inside, norm=True)[0])
    assert trained(step, norm=True)[0]["1.num_batches_tracked"] == MICRO * STEPS


@pytest.mark.parametrize("step", [outside, last_in_step])
def test_steps_that_do_not_perturb_are_the_same(step):
    assert_close(trained(step, every=2)[0], trained(joint, every=2)[0])


def test_clipping_before_step_is_max_grad_norm():
    def clip(model, optimizer):
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()

    clipped = trained(lambda m, o, k: outside(m, o, k, clip))[0]
    assert_close(clipped, trained(joint, max_grad_norm=0.05)[0])


def test_step_after_ascend_runs_hooks_and_is_seen_by_schedulers():
    model, optimizer = made()
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    outside(model, optimizer, 0)
    scheduler.step()  # warns, and warnings are errors, where it believes that no step was made
    assert calls == ["before", "after"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_a_closure_that_fails_after_ascend_gives_the_step_up():
    model, optimizer = made()
    before = copy.deepcopy(model.state_dict())
    plain_closure(model, 0)()
    optimizer.ascend()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert_close(model.state_dict(), before, atol=0)
    joint(model, optimizer, 0)


def test_a_loss_that_is_not_finite_after_ascend_leaves_the_step_out():
    model, optimizer = made()
    before = copy.deepcopy(model.state_dict())
    plain_closure(model, 0)()
    optimizer.ascend()
    optimizer.step(lambda: plain_closure(model, 0)() * torch.inf)
    assert_close(model.state_dict(), before, atol=0)
    assert optimizer.num_nonfinite == 1


# the closure that would forget batches


@pytest.mark.parametrize("make", [SAM, FSAM, RandomSAM])
@pytest.mark.parametrize("first", [True, False])
def test_the_last_micro_batch_alone_is_refused(make, first):
    """What Lightning's automatic optimization does with accumulate_grad_batches."""
    model, optimizer = made(make)
    if not first:
        joint(model, optimizer, 0)
        optimizer.zero_grad()
    before = copy.deepcopy(model.state_dict())
    *others, last = micro_batches(model, 1)
    for run in others:
        run()
    with pytest.raises(RuntimeError, match=r"adds to gradients .* before step\(\).*docs/loops.md"):
        optimizer.step(last)
    assert_close(model.state_dict(), before, atol=0)
    assert optimizer.num_steps == (not first)


WAYS = list(itertools.product(("loop", "closure"), ("optimizer", "model"), (True, False)))


@pytest.mark.parametrize("make", [SAM, RandomSAM])
@pytest.mark.parametrize(("place", "who", "to_none"), WAYS)
def test_every_way_to_zero_is_taken(make, place, who, to_none):
    model, optimizer = made(make)

    def zero_grad():
        (optimizer if who == "optimizer" else model).zero_grad(set_to_none=to_none)

    for k in range(3):
        plain_closure(model, 9)()  # a gradient that somebody looked at
        run = plain_closure(model, k)
        if place == "loop":
            zero_grad()
        optimizer.step(run if place == "loop" else lambda run=run: (zero_grad(), run())[1])
    assert optimizer.num_steps == 3


def test_the_gradient_of_the_last_step_may_stay():
    """Where no backward pass ran since then, there is nothing to forget."""
    model, optimizer = made()
    for k in range(3):
        run = plain_closure(model, k)
        optimizer.step(lambda run=run: (model.zero_grad(set_to_none=False), run())[1])
    assert optimizer.num_steps == 3


PERTURBING = [name for name in VARIANTS if name not in ("sgd", "sgd_2x", "adamw")]
SHOWN = ("sam", "sam_db", "sam_full", "sam_noise", "random", "esam")
ZEROING = {
    "to none": lambda model: model.zero_grad(),
    "in place": lambda model: model.zero_grad(set_to_none=False),
    "by data": lambda model: [p.grad.data.zero_() for p in model.parameters() if p.grad is not None],
}


def nothing(model):
    """Zero no gradients; run no backward pass."""


def stepped(name, zero, before=nothing, further_zero=nn.Module.zero_grad, steps=2):
    """Train a variant; `before(model)` runs before the last step, whose descent closure zeroes by `zero`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)).double()
    every = ["optimizer.every=1"] if name == "looksam" else []  # its other steps are the base's, right with a sum
    optimizer = build_optimizer(compose_tiny(f"optimizer={name}", *every).optimizer, model, seed=3, total_steps=9)
    for k in range(steps):
        last = k == steps - 1
        run = sample_closure_of(model, k, (lambda: zero(model)) if last else model.zero_grad)
        further = closure_of(model, 100 + k, (lambda: further_zero(model)) if last else None)
        if last:
            optimizer.zero_grad()
            before(model)
        optimizer.step(run, further, further)
    return model.state_dict()


@pytest.mark.parametrize("further_zero", ["to none", "in place", "by data", "not at all"])
@pytest.mark.parametrize("name", long_but(SHOWN, PERTURBING))
def test_a_closure_on_other_data_zeroes_for_itself_alone(name, further_zero):
    """Micro-batches before step() are no less lost where the ascent closure, or that of the full set, zeroes."""
    further = ZEROING.get(further_zero, nothing)
    with pytest.raises(RuntimeError, match=r"adds to gradients .* before step\(\)"):
        stepped(name, nothing, before=lambda model: plain_closure(model, 50)(), further_zero=further)


@pytest.mark.parametrize("zero", ZEROING)
@pytest.mark.parametrize("name", long_but(SHOWN, PERTURBING))
def test_gradients_that_the_closure_zeroes_change_nothing(name, zero):
    """A loop may write to the gradients between the steps, or run backward to look at them."""
    found = stepped(name, ZEROING[zero], before=lambda model: plain_closure(model, 50)())
    assert_close(found, stepped(name, ZEROING["to none"]), atol=1e-15)


def test_gradients_of_the_last_step_that_the_loop_wrote_to():
    model, optimizer = made()
    for k in range(3):
        run = plain_closure(model, k)
        optimizer.step(lambda run=run: (model.zero_grad(set_to_none=False), run())[1])
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert optimizer.num_steps == 3


def test_a_loop_that_never_zeroes_is_refused():
    model, optimizer = made()
    joint(model, optimizer, 0)
    with pytest.raises(RuntimeError, match=r"adds to gradients .* before step\(\)"):
        optimizer.step(plain_closure(model, 1))


def test_a_closure_that_writes_gradients_itself_is_taken():
    model, optimizer = made()
    params = list(model.parameters())
    for k in range(3):
        plain_closure(model, 9)()

        def closure(k=k):
            x, y = batch(k)
            loss = F.cross_entropy(model(x.double()), y)
            for p, g in zip(params, torch.autograd.grad(loss, params)):
                p.grad = g
            return loss

        optimizer.step(closure)
    assert optimizer.num_steps == 3


def test_micro_batches_through_another_head_are_seen():
    """The last parameter is none of theirs, and has the zeros that a zero_grad in place has left."""
    body, first, second = nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(4, 3)
    optimizer = SAM(torch.optim.SGD([*body.parameters(), *first.parameters(), *second.parameters()], lr=0.1), rho=0.1)
    x, y = batch(0)

    def run(head):
        loss = F.cross_entropy(head(body(x)), y)
        loss.backward()
        return loss

    run(second)
    optimizer.zero_grad(set_to_none=False)
    run(first)
    with pytest.raises(RuntimeError, match=r"adds to gradients .* before step\(\)"):
        optimizer.step(lambda: run(first))


def test_step_micro_refuses_what_ran_before():
    model, optimizer = made()
    runs = micro_batches(model, 0)
    runs[0]()
    with pytest.raises(RuntimeError, match=r"adds to gradients .* before step\(\)"):
        optimizer.step_micro(runs[1:])
    optimizer.zero_grad()
    optimizer.step_micro(runs)
    assert optimizer.num_steps == 1


@pytest.mark.parametrize("zero", ZEROING)
def test_a_closure_that_zeroes_after_ascend_is_refused(zero):
    """The passes at w + eps before the last micro-batch would be lost."""
    model, optimizer = made()
    *others, last = micro_batches(model, 0)
    for run in (*others, last):
        run()
    optimizer.ascend()
    before = copy.deepcopy(optimizer.displacement.moved)
    assert before
    for run in others:
        run()
    with pytest.raises(RuntimeError, match=r"zeroes gradients of passes between ascend\(\) and step\(\)"):
        optimizer.step(lambda: (ZEROING[zero](model), last())[1])
    assert optimizer.num_steps == 0
    assert not optimizer.displacement.moved


def test_step_without_closure_says_what_to_do():
    model, optimizer = made()
    plain_closure(model, 0)()
    with pytest.raises(ValueError, match=r"needs a closure.*calls ascend\(\), runs its batches again"):
        optimizer.step()
    with pytest.raises(TypeError, match=r"returned None.*calls ascend\(\), runs its batches again"):
        optimizer.step(lambda: None)


@pytest.mark.parametrize("ascended", [False, True])
def test_the_step_of_a_scaler_is_refused(ascended):
    model, optimizer = made()
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu")
    x, y = batch(0)
    for _ in range(1 + ascended):
        scaler.scale(F.cross_entropy(model(x.double()), y)).backward()
        if ascended and not optimizer.displacement.moved:
            optimizer.ascend()
    with pytest.raises(RuntimeError, match=r"grad_scaler=, call step\(closure\) in place of the scaler's step"):
        scaler.step(optimizer)
    assert_close(model.state_dict(), before, atol=0)
    joint(model, optimizer, 0)


def test_a_scaler_that_is_switched_off_passes_the_step_on():
    """GradScaler(enabled=False): the usual switch for a training without mixed precision."""
    (a, plain), (b, through) = made(), made()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    x, y = batch(0)
    for model, optimizer in ((a, plain), (b, through)):
        F.cross_entropy(model(x.double()), y).backward()
        optimizer.ascend()
        F.cross_entropy(model(x.double()), y).backward()
    plain.step()
    scaler.step(through)
    assert_close(b.state_dict(), a.state_dict(), atol=0)


# models that run their forward pass in other ways


class Checkpointed(nn.Module):
    """Keeps no activations: the backward pass runs the forward pass again."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return checkpoint(self.model, x, use_reentrant=False)


@pytest.mark.parametrize("step", [inside, outside])
def test_gradient_checkpointing_changes_nothing(step):
    assert_close(trained(step, wrap=Checkpointed)[0], trained(joint)[0])


@pytest.mark.long
@pytest.mark.parametrize("step", [inside, outside])
def test_a_compiled_model_trains_as_the_model(step):
    def compiled(model):
        torch._dynamo.reset()
        return torch.compile(model, backend="aot_eager")

    assert_close(trained(step, norm=True, wrap=compiled)[0], trained(step, norm=True)[0])
