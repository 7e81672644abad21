"""The work of a training in gradient passes: that of every variant, as docs/variants.md states it."""

import io
import re
from fractions import Fraction

import pytest
import torch
from support.marks import long_but
from support.runs import ROOT, VARIANTS, Rows, build_trainer, compose_tiny

from fsamlab.train.work import Account, Work

KINDS = (
    *("sgd", "sam", "fsam_quarter", "sam_batch", "sam_full", "sam_noise", "random", "looksam", "multistep_sam"),
    *("esam", "ae_sam", "m_rwp"),
)
CELL = re.compile(r"`(\w+)`")


def stated():
    """The column `passes a step` of the table of docs/variants.md."""
    found = {}
    for line in (ROOT / "docs" / "variants.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 8 and CELL.match(cells[1]):
            found |= dict.fromkeys(CELL.findall(cells[1]), cells[3])
    return found


STATED = stated()


def trained(*overrides, max_steps=5):
    config = compose_tiny(*overrides)
    config.train.max_steps = max_steps
    trainer = build_trainer(config)
    trainer.fit(Rows())
    return config, trainer


def test_each_variant_is_stated():
    assert set(STATED) == set(VARIANTS)


@pytest.mark.parametrize("variant", long_but(KINDS, VARIANTS))
def test_the_passes_of_a_variant_are_those_that_the_documentation_states(variant):
    some = ("optimizer.lambda_1=3", "optimizer.lambda_2=3") if variant == "ae_sam" else ()  # not all of few steps
    config, trainer = trained(f"optimizer={variant}", *some)
    size, num = config.data.batch_size, trainer.data.train.num_samples
    assert num % size == 0
    values = {"N": num, "B": size, "b": config.optimizer.ascent_batch_size, "gamma": config.optimizer.gamma}
    if "share" in STATED[variant]:
        values["share"] = Fraction(int(trainer.optimizer.choices.when.num_perturbed), trainer.step)
        assert 0 < values["share"] < 1
    formula = re.sub(r"\(.*\)", "", STATED[variant])
    summary = trainer.summary()
    assert summary["cost/passes_per_step"] == pytest.approx(float(eval(formula, values)))
    epochs = summary["cost/steps"] / trainer.steps_per_epoch
    assert summary["cost/passes"] == pytest.approx(epochs * summary["cost/passes_per_step"])


def test_sgd_with_twice_the_epochs_has_the_passes_of_sam():
    (_, longer), (_, sam) = (trained(f"optimizer={v}", max_steps=None) for v in ("sgd_2x", "sam"))
    assert longer.summary()["cost/passes"] == sam.summary()["cost/passes"] == 4


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        (("optimizer=sam", "train.accumulate_steps=3"), 2),
        (("optimizer=sam", "train.accumulate_steps=2", "train.accumulate_mode=per_micro_batch"), 2),
        (("optimizer=fsam", "optimizer.every=2"), 1 + 3 / 5),
        (("optimizer=sam_full", "optimizer.full_every_steps=2"), 1 + 3),
    ],
)
def test_settings_that_change_the_passes(overrides, passes):
    assert trained(*overrides)[1].summary()["cost/passes_per_step"] == pytest.approx(passes)


def test_a_stopped_training_goes_on_counting_and_one_of_an_earlier_version_does_not_guess():
    config, first = trained("optimizer=esam", max_steps=3)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    config.train.max_steps = 5
    resumed = build_trainer(config)
    resumed.load_state_dict(state)
    resumed.fit(Rows())
    whole = trained("optimizer=esam")[1]
    assert resumed.account.work == whole.account.work
    del state["work"]
    resumed = build_trainer(config)
    resumed.load_state_dict(state)
    resumed.fit(Rows())
    assert not {"cost/passes", "cost/passes_per_step"} & set(resumed.summary())
    assert resumed.state_dict()["work"] is None  # also after a further stop


def test_work_that_no_step_was_made_with():
    account = Account()
    assert account.cost(0.0) == {}
    account.add(Work(32, 64))
    assert account.cost(0.5) == {"cost/passes_per_step": 2, "cost/passes": 1}
