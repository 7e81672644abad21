"""What a batch of augmented CIFAR-sized images costs: whole batches on tensors against image after image in workers.

    python benchmarks/augment.py

Both give batches of 128 with zero-padded crop, flip, normalisation and a 16-pixel cutout. The other side is what
users would write: CIFAR's array of uint8, torchvision's transforms, a DataLoader. The two take turns, epoch by epoch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fsamlab.config import AugmentConfig, SyntheticConfig
from fsamlab.data import build_data

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR-10 gives them: PIL from an array, then transforms."""

    def __init__(self, num_samples: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (num_samples, 32, 32, 3), dtype=np.uint8)
        erase = transforms.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1), value=0)  # 16 x 16 of 32 x 32
        crop_flip = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose(
            [transforms.ToPILImage(), *crop_flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD), erase]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[index]), 0


def ms_per_batch(batches: Iterable[object]) -> float:
    """Return the milliseconds per batch of an epoch."""
    start = time.perf_counter()
    num = sum(1 for _ in batches)
    return 1e3 * (time.perf_counter() - start) / num


def main() -> None:
    """Print a table: milliseconds per batch and the ratio to whole batches, medians over the epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    augment = AugmentConfig(crop_padding=4, flip=True, cutout=16)
    sizes = {
        "num_samples": args.samples + 1,
        "channels": 3,
        "image_size": 32,
        "batch_size": BATCH,
        "test_size": 1,
        "val_size": 0,
    }
    cfg = SyntheticConfig(name="synthetic", mean=list(MEAN), std=list(STD), augment=augment, **sizes)
    ours = build_data(cfg, 0, torch.device("cpu"), Path()).train
    loaders = {
        f"torchvision, {n} workers": DataLoader(
            PerImage(args.samples), BATCH, shuffle=True, num_workers=n, drop_last=True, persistent_workers=n > 0
        )
        for n in (0, 2)
    }
    taken: dict[str, list[float]] = {"whole batches": [], **{name: [] for name in loaders}}
    for loader in loaders.values():  # the workers' start is not timed
        next(iter(loader))
    for epoch in range(args.epochs):
        taken["whole batches"].append(ms_per_batch(ours.batches(epoch)))
        for name, loader in loaders.items():
            taken[name].append(ms_per_batch(loader))
    table = Table("", "ms per batch", "x")
    base = statistics.median(taken["whole batches"])
    for name, values in taken.items():
        median = statistics.median(values)
        table.add_row(name, f"{median:.1f}", f"{median / base:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
