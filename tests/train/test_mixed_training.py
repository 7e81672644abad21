"""Training on mixed batches: which passes see which mixture, and what is measured."""

import pytest
import torch
from support.marks import long_but
from support.runs import build_trainer, compose_tiny

MIXED = ("data.augment.mixup=0.8", "data.augment.cutmix=1", "diagnostics=off")


class Poll:
    def poll(self):
        pass


def seen_in_a_step(*overrides, step=0):
    """Make one step; return trainer, batch, mixed batch, and the batches of each closure call."""
    trainer = build_trainer(compose_tiny(*MIXED, *overrides))
    trainer.step, trainer._observer, seen = step, Poll(), []
    forward = trainer.passes.forward

    def watched(batch, task):
        seen.append(batch)
        return forward(batch, task)

    trainer.passes.forward = watched
    batch = next(trainer.data.train.batches(0, start=step))
    trainer._step(batch)
    return trainer, batch, trainer.passes.mixing.descent(batch, step), seen


def same(a, b):
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)


def test_both_passes_of_sam_see_the_same_mixture():
    _, batch, mixed, seen = seen_in_a_step("optimizer=sam", step=1)
    assert len(seen) == 2
    assert all(same(pass_, mixed) for pass_ in seen)
    assert not torch.equal(mixed.inputs, batch.inputs)
    assert mixed.targets.shape == (32, 10)


def test_micro_batches_are_parts_of_one_mixture():
    _, _, mixed, seen = seen_in_a_step("optimizer=sam", "train.accumulate_steps=2", step=1)
    assert len(seen) == 4
    for first, second in (seen[:2], seen[2:]):
        assert torch.equal(torch.cat([first.inputs, second.inputs]), mixed.inputs)
        assert torch.equal(torch.cat([first.targets, second.targets]), mixed.targets)


def test_an_ascent_batch_of_other_samples_has_a_mixture_of_its_own():
    trainer, _, mixed, (ascent, descent) = seen_in_a_step("optimizer=sam_db", step=1)
    assert same(descent, mixed)
    assert same(ascent, trainer.passes.mixing.ascent(trainer.data.train.other(1, 32), 1))


@pytest.mark.parametrize("share", long_but((1.5,), [0.25, 1.5]))
def test_a_nested_ascent_batch_has_the_mixture_of_the_descent_batch(share):
    _, _, mixed, seen = seen_in_a_step("optimizer=fsam_quarter", f"optimizer.ascent_share={share}", step=1)
    ascent = next(part for part in seen if len(part) != len(mixed))
    shared = min(len(ascent), len(mixed))
    assert same(ascent.first(shared), mixed.first(shared))
    assert ascent.targets.shape == (round(share * 32), 10)
    torch.testing.assert_close(ascent.targets.sum(1), torch.ones(len(ascent)))


def test_the_full_gradient_is_that_of_mixed_batches():
    trainer, _, _, seen = seen_in_a_step("optimizer=sam_full", "data.eval_batch_size=64", step=1)
    chunks = list(trainer.data.train.full(1))
    assert len(seen) == len(chunks) + 1
    for number, chunk in enumerate(chunks):
        assert same(seen[number], trainer.passes.mixing.full(chunk, 1, number))


def test_measurements_see_unmixed_data():
    trainer = build_trainer(compose_tiny(*MIXED[:2], "diagnostics=light"))
    coming = trainer.snapshot().coming()
    plain = build_trainer(compose_tiny("diagnostics=light"))
    assert same(next(iter(coming)), next(plain.data.train.batches(0)))
    measured = [t.diagnostics.measure(t.snapshot()) for t in (trainer, plain)]
    assert measured[0] == measured[1]
