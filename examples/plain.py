"""F-SAM in a bare PyTorch loop, with gradient accumulation, clipping, a schedule, and checkpoints that resume.

python examples/plain.py
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from digits import accuracy, digits, network
from torch import nn
from torch.utils.data import DataLoader

from fsamlab.optim import FSAM

MICRO_BATCH, ACCUMULATE = 32, 2  # samples of a backward pass; backward passes of a step
EPOCHS, LR, RHO, CLIP = 4, 0.1, 0.1, 1.0


def train(folder: Path, epochs: int = EPOCHS) -> nn.Module:
    """Train up to an epoch, from the checkpoint in `folder` if there is one."""
    loader = DataLoader(digits()[0], batch_size=MICRO_BATCH * ACCUMULATE)
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    optimizer = FSAM(base, rho=RHO, model=model, max_grad_norm=CLIP)  # clips the gradient at w + eps alone
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))
    start, path = 0, folder / "checkpoint.pt"
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        start = state["epoch"]
    model.train()
    for epoch in range(start, epochs):
        for batch in loader:
            micro_batches = list(zip(*(tensor.chunk(ACCUMULATE) for tensor in batch)))

            def closure(micro_batches=micro_batches):
                optimizer.zero_grad()
                total = 0.0
                for x, y in micro_batches:
                    loss = F.cross_entropy(model(x), y) / len(micro_batches)
                    loss.backward()
                    total += loss.detach()
                return total

            loss = optimizer.step(closure)  # all micro-batches at w, then all of them at w + eps
            scheduler.step()
        print(f"epoch {epoch}: loss of the last batch {loss:.3f}")
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**states, "scheduler": scheduler.state_dict(), "epoch": epoch + 1}, path)
    return model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # give a folder that stays, and a second start resumes
        print(f"test accuracy {accuracy(train(Path(folder))):.3f}")
