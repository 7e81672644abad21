"""F-SAM in a loop of Hugging Face Accelerate, with its `accumulate` and its checkpoints.

    python examples/accelerate_loop.py

`accumulate` leaves out every optimizer.step() but that of the last micro-batch, and the closures with them. So the
first passes run as in any loop of accelerate, and the last micro-batch of a step starts the second pass over them all.
"""

import math
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from digits import accuracy, digits, network
from torch import nn
from torch.utils.data import DataLoader

from fsamlab.optim import FSAM, frozen_batchnorm

MICRO_BATCH, ACCUMULATE = 32, 2  # samples of a backward pass; backward passes of a step
EPOCHS, LR, RHO, CLIP = 4, 0.1, 0.1, 1.0


def train(folder: Path, epochs: int = EPOCHS) -> nn.Module:
    """Train up to an epoch, from the checkpoint in `folder` if there is one."""
    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATE, cpu=True)
    loader = DataLoader(digits()[0], batch_size=MICRO_BATCH)
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    optimizer = FSAM(base, rho=RHO, model=model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=EPOCHS * math.ceil(len(loader) / ACCUMULATE)
    )
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    start, checkpoints = 0, sorted(folder.glob("epoch_*"))
    if checkpoints:
        accelerator.load_state(checkpoints[-1])
        start = int(checkpoints[-1].name.removeprefix("epoch_"))
    model.train()
    micro_batches = []
    for epoch in range(start, epochs):
        for x, y in loader:
            micro_batches.append((x, y))
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)  # divides by the number of micro-batches
                if accelerator.sync_gradients:
                    optimizer.optimizer.ascend()
                    with frozen_batchnorm(model):
                        for i, (x, y) in enumerate(micro_batches, start=1):
                            last = i == len(micro_batches)
                            with nullcontext() if last else accelerator.no_sync(model):
                                accelerator.backward(F.cross_entropy(model(x), y))
                    micro_batches.clear()
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()  # after ascend(): the weights go back, and the base steps
                scheduler.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss of the last micro-batch {loss:.3f}")
        accelerator.save_state(folder / f"epoch_{epoch + 1:03d}")
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # give a folder that stays, and a second start resumes
        print(f"test accuracy {accuracy(train(Path(folder))):.3f}")
