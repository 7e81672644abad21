"""F-SAM in a loop of the form of timm's train script: mixup, label smoothing, clipping, EMA of weights, its scheduler.

python examples/timm_loop.py
"""

import tempfile
from pathlib import Path

import torch
from digits import accuracy, digits, network
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models import load_checkpoint, resume_checkpoint
from timm.scheduler import CosineLRScheduler
from timm.utils import CheckpointSaver, ModelEmaV3, dispatch_clip_grad, random_seed
from torch import nn
from torch.utils.data import DataLoader

from fsamlab.optim import FSAM, frozen_batchnorm

MICRO_BATCH, ACCUMULATE = 32, 2  # samples of a backward pass; backward passes of a step
EPOCHS, LR, RHO, CLIP = 4, 0.1, 0.1, 1.0
MIXUP, SMOOTHING, EMA_DECAY, WARMUP = 0.2, 0.1, 0.9, 8  # the last one in steps


def train(folder: Path, epochs: int = EPOCHS) -> nn.Module:
    """Train up to an epoch, from the checkpoint in `folder` if there is one; return the EMA of the weights."""
    loader = DataLoader(digits()[0], batch_size=MICRO_BATCH)
    updates_per_epoch = len(loader) // ACCUMULATE
    mixup = Mixup(mixup_alpha=MIXUP, label_smoothing=SMOOTHING, num_classes=10)
    criterion = SoftTargetCrossEntropy()
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    optimizer = FSAM(base, rho=RHO, model=model)
    ema = ModelEmaV3(model, decay=EMA_DECAY)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=EPOCHS * updates_per_epoch, warmup_t=WARMUP, warmup_lr_init=1e-3, t_in_epochs=False
    )
    saver = CheckpointSaver(model, optimizer, model_ema=ema, checkpoint_dir=str(folder), recovery_dir=str(folder))
    start, path = 0, folder / "last.pth.tar"
    if path.exists():
        start = resume_checkpoint(model, str(path), optimizer)
        load_checkpoint(ema.module, str(path), use_ema=True)
    num_updates = start * updates_per_epoch
    scheduler.step_update(num_updates)
    for epoch in range(start, epochs):
        random_seed(epoch)  # a resumed run mixes as an uninterrupted one
        model.train()
        micro_batches = []
        optimizer.zero_grad()  # a rest of the last epoch, fewer than ACCUMULATE micro-batches, is left out
        for i, (x, y) in enumerate(loader, start=1):
            x, y = mixup(x, y)
            micro_batches.append((x, y))  # the second pass sees the same mixture
            loss = criterion(model(x), y)
            (loss / ACCUMULATE).backward()
            if i % ACCUMULATE:
                continue
            optimizer.ascend()
            with frozen_batchnorm(model):
                for x, y in micro_batches:
                    (criterion(model(x), y) / ACCUMULATE).backward()
            micro_batches.clear()
            dispatch_clip_grad(model.parameters(), CLIP, mode="norm")
            optimizer.step()  # after ascend(): the weights go back, and the base steps
            optimizer.zero_grad()
            num_updates += 1
            ema.update(model, step=num_updates)
            scheduler.step_update(num_updates)
        print(f"epoch {epoch}: loss of the last micro-batch {loss:.3f}")
        saver.save_checkpoint(epoch)
    return ema.module


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # give a folder that stays, and a second start resumes
        print(f"test accuracy {accuracy(train(Path(folder))):.3f}")
