"""F-SAM in Lightning with automatic optimization and the Trainer's `accumulate_grad_batches`.

    python examples/lightning_automatic.py

With accumulate_grad_batches=1 the method `optimizer_step` below is not needed. With more, Lightning hands the optimizer
the closure of the last micro-batch alone, so the second pass repeats the others here. Without the method the optimizer
refuses to step.
"""

import math
import tempfile
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from digits import accuracy, digits, network
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from fsamlab.optim import FSAM, frozen_batchnorm

MICRO_BATCH, ACCUMULATE = 32, 2  # samples of a backward pass; backward passes of a step
EPOCHS, LR, RHO, CLIP = 4, 0.1, 0.1, 1.0


class Digits(lightning.LightningModule):
    def __init__(self, num_steps):
        super().__init__()
        self.network, self.num_steps, self.micro_batches = network(), num_steps, []

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.network(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_start(self, batch, batch_idx):
        self.micro_batches.append(batch)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer_closure()  # at w: adds the gradient of the last micro-batch to those that Lightning has accumulated
        optimizer.ascend()
        with frozen_batchnorm(self):
            for batch in self.micro_batches[:-1]:  # at w + eps: all but the last
                with self.trainer.precision_plugin.train_step_context():
                    loss = self.loss(batch) / self.trainer.accumulate_grad_batches
                loss.backward()
        self.micro_batches.clear()
        optimizer.step(closure=optimizer_closure)  # the last one, Lightning's clipping and hooks, and the update

    def configure_optimizers(self):
        base = torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
        optimizer = FSAM(base, rho=RHO, model=self)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(folder: Path, epochs: int = EPOCHS, **keywords) -> nn.Module:
    """Train up to an epoch, from the checkpoint in `folder` if there is one."""
    trainer = lightning.Trainer(
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=CLIP,  # clips the gradient at w + eps alone, since optimizer.step() runs one closure
        max_epochs=epochs,
        callbacks=[ModelCheckpoint(folder, save_last=True)],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        **keywords,
    )
    loader = DataLoader(digits()[0], batch_size=MICRO_BATCH)
    module, path = Digits(EPOCHS * math.ceil(len(loader) / ACCUMULATE)), folder / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=path if path.exists() else None)
    print(f"{trainer.global_step} steps")
    return module.network


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # give a folder that stays, and a second start resumes
        print(f"test accuracy {accuracy(train(Path(folder))):.3f}")
