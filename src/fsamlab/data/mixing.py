"""mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) of training batches.

timm's implementation, one draw for a batch: sample i of n is mixed with sample n - 1 - i, and the labels become
probabilities of the classes, lam for the sample's own class and 1 - lam for that of the other. Whether a batch is mixed
(`mix_prob`), by which of the two (`switch_prob`), lam and the box follow from (seed, step) alone.

The data sources give unmixed batches; the training loop mixes. So measurements, which ask the sources, see unmixed
data.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.foreign_random import drawing_from
from fsamlab.data.interface import Batch, Data, concatenate
from fsamlab.seeding import Stream, derive_seed


class Mixing:
    """Mixes the batches of a training.

    Args:
        cfg: the `data` section of the config, with `augment.mixup` or `augment.cutmix` above 0.
        num_classes: the number of classes.
        seed: decides, with the step, how a batch is mixed.
    """

    def __init__(self, cfg: DataConfig, num_classes: int, seed: int) -> None:
        from timm.data.mixup import Mixup  # slow to import, and most runs mix nothing

        self.cfg, self.num_classes, self.seed = cfg.augment, num_classes, seed
        self.batch_size = cfg.batch_size
        # label smoothing is left to the loss, which smooths the mixed probabilities: that gives the same targets
        self._mixup = Mixup(
            self.cfg.mixup,
            self.cfg.cutmix,
            prob=self.cfg.mix_prob,
            switch_prob=self.cfg.switch_prob,
            label_smoothing=0.0,
            num_classes=num_classes,
        )

    def descent(self, batch: Batch, step: int) -> Batch:
        """Return the mixed descent batch of a step."""
        return self._mixed(batch, Stream.AUGMENT, step)

    def ascent(self, batch: Batch, step: int) -> Batch:
        """Return the mixed ascent batch of a step, of a variant whose ascent batch has samples of its own."""
        return self._mixed(batch, Stream.OTHER_BATCH, step)

    def full(self, chunk: Batch, step: int, number: int) -> Batch:
        """Return a mixed chunk of the pass over the training set: mixed in pieces of the size of a descent batch.

        So the full gradient is one of the loss that the steps minimise in the mean, over about as many draws as an
        epoch has.
        """
        columns = (chunk.inputs, chunk.targets, chunk.indices)
        pieces = zip(*(column.split(self.batch_size) for column in columns))
        return concatenate([self._mixed(Batch(*p), Stream.FULL_PASS, step, number, k) for k, p in enumerate(pieces)])

    def _mixed(self, batch: Batch, *draw: int) -> Batch:
        self._check(batch)
        even = len(batch) - len(batch) % 2  # timm mixes pairs; of an odd number the last sample stays as it is
        targets = F.one_hot(batch.targets, self.num_classes).float()
        if not even:
            return Batch(batch.inputs, targets, batch.indices)
        with drawing_from(derive_seed(self.seed, Stream.MIX, *draw)):
            # timm mixes in place
            inputs, mixed = self._mixup(batch.inputs[:even].clone(), batch.targets[:even])
        inputs = torch.cat([inputs, batch.inputs[even:]]) if even < len(batch) else inputs
        return Batch(inputs, torch.cat([mixed, targets[even:]]), batch.indices)

    def _check(self, batch: Batch) -> None:
        key = "cutmix" if self.cfg.cutmix else "mixup"
        if batch.targets.dim() != 1 or batch.targets.dtype != torch.int64:
            found = f"{batch.targets.dtype} of shape {tuple(batch.targets.shape)}"
            allowed = f"mixes labels of classes, int64 (n,); the data give targets {found}"
            raise ConfigError(f"data.augment.{key}", getattr(self.cfg, key), allowed)
        if self.cfg.cutmix and batch.inputs.dim() != 4:
            allowed = f"cuts boxes out of images; the data give inputs of shape {tuple(batch.inputs.shape)}"
            raise ConfigError("data.augment.cutmix", self.cfg.cutmix, allowed)


def mixing_of(cfg: DataConfig, data: Data, seed: int) -> Mixing | None:
    """Return how the batches of a training are mixed; None where the config mixes nothing.

    Raises:
        ConfigError: the data have no classes.
    """
    for key in ("mixup", "cutmix"):
        if getattr(cfg.augment, key) and data.task != "classification":
            allowed = f"mixes labels of classes; a {data.task} has none: leave it 0"
            raise ConfigError(f"data.augment.{key}", getattr(cfg.augment, key), allowed)
    return Mixing(cfg, data.num_classes, seed) if cfg.augment.mixes else None
