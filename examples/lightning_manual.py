"""F-SAM in Lightning with manual optimization: `training_step` cuts its batch into micro-batches and steps itself.

python examples/lightning_manual.py
"""

import tempfile
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from digits import accuracy, digits, network
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from fsamlab.optim import FSAM

MICRO_BATCH, ACCUMULATE = 32, 2  # samples of a backward pass; backward passes of a step
EPOCHS, LR, RHO, CLIP = 4, 0.1, 0.1, 1.0


class Digits(lightning.LightningModule):
    automatic_optimization = False

    def __init__(self, num_steps):
        super().__init__()
        self.network, self.num_steps = network(), num_steps

    def training_step(self, batch, batch_idx):
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        micro_batches = list(zip(*(tensor.chunk(ACCUMULATE) for tensor in batch)))

        def closure():
            optimizer.zero_grad()
            total = 0.0
            for x, y in micro_batches:
                loss = F.cross_entropy(self.network(x), y) / len(micro_batches)
                self.manual_backward(loss)
                total += loss.detach()
            return total

        loss = optimizer.step(closure)  # all micro-batches at w, then all of them at w + eps; counts one global_step
        scheduler.step()
        self.log("loss", loss, prog_bar=True)

    def configure_optimizers(self):
        base = torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
        optimizer = FSAM(base, rho=RHO, model=self, max_grad_norm=CLIP)  # Lightning clips in automatic mode alone
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.num_steps)]


def train(folder: Path, epochs: int = EPOCHS, **keywords) -> nn.Module:
    """Train up to an epoch, from the checkpoint in `folder` if there is one."""
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[ModelCheckpoint(folder, save_last=True)],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        **keywords,
    )
    loader = DataLoader(digits()[0], batch_size=MICRO_BATCH * ACCUMULATE)
    module, path = Digits(EPOCHS * len(loader)), folder / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=path if path.exists() else None)
    print(f"{trainer.global_step} steps")
    return module.network


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # give a folder that stays, and a second start resumes
        print(f"test accuracy {accuracy(train(Path(folder))):.3f}")
