"""F-SAM in the Trainer of Hugging Face Transformers, with `gradient_accumulation_steps` and its checkpoints.

    python examples/hf_trainer.py

The Trainer calls optimizer.step() without a closure. So `training_step` makes the second pass after the last
micro-batch of a step, and step() ends the step, after the Trainer has clipped the gradient at w + eps.
"""

import math
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from digits import accuracy, digits, network
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from fsamlab.optim import FSAM, frozen_batchnorm

MICRO_BATCH, ACCUMULATE = 32, 2  # samples of a backward pass; backward passes of a step
EPOCHS, LR, RHO, CLIP = 4, 0.1, 0.1, 1.0


class Digits(Dataset):
    """Inputs (64,) in [0, 1] and labels, in the form of the Trainer: one dict for each sample."""

    def __init__(self, samples):
        self.x, self.y = samples.tensors

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.y[i]}


class Network(nn.Module):
    """Any model of transformers takes this place: its forward returns the loss where it gets labels."""

    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x, labels):
        logits = self.layers(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class FSAMTrainer(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)  # at w; the gradients add up
        self.micro_batches = [*getattr(self, "micro_batches", []), (inputs, num_items_in_batch)]
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            self.optimizer.optimizer.ascend()
            with frozen_batchnorm(model):
                for i, micro_batch in enumerate(self.micro_batches, start=1):
                    last = i == len(self.micro_batches)
                    with nullcontext() if last else self.accelerator.no_sync(model):
                        super().training_step(model, *micro_batch)
            self.micro_batches = []
        return loss


def train(folder: Path, epochs: int = EPOCHS) -> nn.Module:
    """Train up to an epoch, from the checkpoint in `folder` if there is one."""
    data, model = Digits(digits()[0]), Network()
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    optimizer = FSAM(base, rho=RHO, model=model)
    steps = EPOCHS * math.ceil(len(data) / (MICRO_BATCH * ACCUMULATE))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=ACCUMULATE,
        num_train_epochs=epochs,
        max_grad_norm=CLIP,
        save_strategy="epoch",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = FSAMTrainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    print(f"{trainer.state.global_step} steps")
    return model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # give a folder that stays, and a second start resumes
        print(f"test accuracy {accuracy(train(Path(folder)).layers):.3f}")
