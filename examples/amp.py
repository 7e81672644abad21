"""F-SAM with automatic mixed precision: torch.autocast, and a GradScaler that the optimizer knows.

python examples/amp.py
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
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOW = torch.float16 if DEVICE == "cuda" else torch.bfloat16  # CPUs compute in bfloat16


def train(folder: Path, epochs: int = EPOCHS) -> nn.Module:
    """Train up to an epoch, from the checkpoint in `folder` if there is one."""
    loader = DataLoader(digits()[0], batch_size=MICRO_BATCH * ACCUMULATE)
    model = network().to(DEVICE)
    scaler = torch.amp.GradScaler(DEVICE, growth_interval=20)
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    optimizer = FSAM(base, rho=RHO, model=model, max_grad_norm=CLIP, grad_scaler=scaler)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    start, path = 0, folder / "checkpoint.pt"
    if path.exists():
        state = torch.load(path)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        start = state["epoch"]
    model.train()
    for epoch in range(start, epochs):
        for batch in loader:
            micro_batches = list(zip(*(tensor.to(DEVICE).chunk(ACCUMULATE) for tensor in batch)))

            def closure(micro_batches=micro_batches):
                optimizer.zero_grad()
                total = 0.0
                for x, y in micro_batches:
                    with torch.autocast(DEVICE, dtype=LOW):
                        loss = F.cross_entropy(model(x), y) / len(micro_batches)
                    scaler.scale(loss).backward()
                    total += loss.detach()
                return total  # unscaled

            loss = optimizer.step(closure)  # in place of scaler.step(optimizer); unscales both passes
            scaler.update()
            scheduler.step()
        print(f"epoch {epoch}: loss of the last batch {loss:.3f}, scale {scaler.get_scale():g}")
        torch.save({**{name: part.state_dict() for name, part in parts.items()}, "epoch": epoch + 1}, path)
    return model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # give a folder that stays, and a second start resumes
        print(f"test accuracy {accuracy(train(Path(folder))):.3f}")
