"""On CUDA a training waits for the device where docs/devices.md says so; shown with fake tensors, without a GPU.

There is no backward pass on fake tensors: gradients are put in by hand. Everything else is the trainer's own.
"""

import pytest
import torch
from support.fake_cuda import waits
from support.fake_trainer import fake_training, trainer_on_cuda
from support.marks import long_but
from support.runs import VARIANTS, Rows

SHOWN = ("fsam", "sam_db", "sam_noise", "ae_sam", "esam")
IN_A_STEP = {"ae_sam": 1}


def waits_of(name, *overrides):
    """Return the waits of the steps, and those at the ends of the epochs, of all epochs but the first."""
    with fake_training() as (counter, patch):
        trainer = trainer_on_cuda(name, *overrides)
        observer, of_steps, of_ends = Rows(), [], []
        trainer._observer = observer
        make, boundary = trainer.stepper.make, trainer._boundary

        def counted(found, call):
            def run(*args, **keywords):
                before = counter.found
                result = call(*args, **keywords)
                found.append({k: n - before.get(k, 0) for k, n in counter.found.items() if n != before.get(k, 0)})
                return result

            return run

        trainer.stepper.make = counted(of_steps, make)
        trainer._boundary = counted(of_ends, boundary)
        patch.setattr(torch.cuda, "synchronize", lambda: counter.seen.update(["synchronised"]))
        before_fit = counter.found
        trainer.fit(observer)
        everything = {k: n - before_fit.get(k, 0) for k, n in counter.found.items()}
    ends = of_ends[2::3]  # three steps an epoch
    assert everything.pop("synchronised") == 3  # before the evaluation of each epoch, for the time of its steps
    inside = {key: sum(found.get(key, 0) for found in (*of_steps, *of_ends)) for key in everything}
    assert everything == inside  # nothing waits between steps: in a batch, in an order
    assert len(observer.rows) == 3
    return of_steps[3:], ends[1:]


@pytest.mark.parametrize("name", long_but(SHOWN, VARIANTS))
def test_a_training_waits_as_often_as_documented(name):
    steps, ends = waits_of(name)
    assert steps == [waits(reads=IN_A_STEP.get(name, 0))] * 6
    assert ends == [waits(copies=1)] * 2  # all numbers of a row in one transfer


SETTINGS = {
    "fp16": ["train.precision=fp16"],
    "accumulated": ["train.accumulate_steps=2"],
    "per micro-batch": ["train.accumulate_steps=2", "train.accumulate_mode=per_micro_batch"],
    "clipped": ["train.max_grad_norm=1.0"],
    "mixed": ["data.augment.mixup=0.2"],
}


@pytest.mark.parametrize("setting", long_but(["fp16", "per micro-batch"], SETTINGS))
def test_no_setting_makes_a_step_wait(setting):
    steps, ends = waits_of("fsam", *SETTINGS[setting])
    assert steps == [{}] * 6
    assert ends == [waits(copies=1)] * 2
