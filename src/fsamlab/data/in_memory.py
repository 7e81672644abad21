"""Small image sets: tensors on the training device, augmented in whole batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.augment import augment, normalise
from fsamlab.data.cut import EVERYTHING, Cut
from fsamlab.data.instance_noise import add_instance_noise
from fsamlab.data.interface import Batch, Data, concatenate
from fsamlab.data.label_noise import add_label_noise
from fsamlab.data.long_tail import facts_of_classes, long_tailed
from fsamlab.data.rand_augment import rand_augment_in_memory
from fsamlab.data.sampling import draw_other, epoch_order, even_chunks, generator, num_batches
from fsamlab.data.split import check_batch_size, facts_of, make_split
from fsamlab.data.transfer import to_device
from fsamlab.seeding import Stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Labelled images: pixels uint8 0..255 or float32 (n, channels, height, width), labels int64 (n,)."""

    pixels: Tensor
    labels: Tensor

    def at(self, positions: Tensor) -> Images:
        """Return the images at `positions`, int64 (k,)."""
        return Images(self.pixels[positions], self.labels[positions])


@dataclass(frozen=True)
class Raw:
    """A data set as the files hold it; `test` is None where the files have no test part."""

    train: Images
    test: Images | None
    num_classes: int


Reader = Callable[[DataConfig, int, Path], Raw]  # (cfg, seed, the data set's root)


class Normalisation:
    """Mean and standard deviation per channel, float32 (channels, 1, 1); a single value serves all channels.

    Raises:
        ConfigError: the config has neither one value nor one value for each channel.
    """

    def __init__(self, cfg: DataConfig, channels: int, device: torch.device) -> None:
        if len(cfg.mean) not in (1, channels):
            raise ConfigError("data.mean", cfg.mean, f"must have {channels} values, one per channel of {cfg.name}")
        self.mean = torch.tensor(cfg.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(cfg.std, device=device).view(-1, 1, 1)


def plain_batch(images: Images, indices: Tensor, to: Normalisation) -> Batch:
    """Return the images at `indices` (on their device), normalised and not augmented."""
    chosen = images.at(indices)
    return Batch(normalise(chosen.pixels, to.mean, to.std), chosen.labels, indices)


class InMemoryTrain:
    """Implements :class:`~fsamlab.data.interface.TrainSource` on tensors."""

    takes_cut = True

    def __init__(self, images: Images, cfg: DataConfig, seed: int, device: torch.device) -> None:
        self.num_samples = len(images.labels)
        self._cfg, self._seed, self._device = cfg, seed, device
        self._pixels, self._labels = images.pixels.to(device), images.labels.to(device)
        self._normalisation = Normalisation(cfg, images.pixels.shape[1], device)
        self._rand_augment = rand_augment_in_memory(cfg, images.pixels)

    def num_batches(self) -> int:
        """Return the number of batches in an epoch."""
        return num_batches(self.num_samples, self._cfg)

    def batches(self, epoch: int, start: int = 0, cut: Cut = EVERYTHING) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        order = to_device(epoch_order(self.num_samples, self._seed, epoch), self._device)
        size = self._cfg.batch_size
        for number in range(start, self.num_batches()):
            yield self._batch(order[number * size : (number + 1) * size], Stream.AUGMENT, epoch, number, cut=cut)

    def other(self, step: int, size: int, nested_in: Batch | None = None, cut: Cut = EVERYTHING) -> Batch:
        """Return the ascent batch of a global step; with `nested_in` the two batches share samples."""
        if nested_in is None:
            drawn = draw_other(self.num_samples, size, self._seed, step)
            return self._batch(drawn, Stream.OTHER_BATCH, step, cut=cut)
        if size <= len(nested_in):
            return nested_in.first(size)
        more = draw_other(self.num_samples, size - len(nested_in), self._seed, step, taken=nested_in.indices)
        return concatenate([nested_in, self._batch(more, Stream.OTHER_BATCH, step)])

    def full(self, step: int, cut: Cut = EVERYTHING) -> Iterator[Batch]:
        """Yield the whole training set once, augmented from (seed, step)."""
        for number, indices in enumerate(even_chunks(self.num_samples, self._cfg.eval_batch_size)):
            yield self._batch(indices, Stream.FULL_PASS, step, number, cut=cut)

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions, without augmentation or with one fixed augmentation for each."""
        pieces = indices.split(self._cfg.eval_batch_size)
        if augmented:
            return concatenate([self._batch(piece, Stream.PROBE, n) for n, piece in enumerate(pieces)])
        images = Images(self._pixels, self._labels)
        return concatenate([plain_batch(images, piece.to(self._device), self._normalisation) for piece in pieces])

    def _batch(self, indices: Tensor, *stream: int, cut: Cut = EVERYTHING) -> Batch:
        indices, among = cut.taken(to_device(indices, self._device))
        # A fresh generator for each batch: a resumed epoch makes batch 7 without having made batches 0 to 6.
        gen = generator(self._seed, *stream)
        to = self._normalisation
        images = augment(self._pixels[indices], to.mean, to.std, self._cfg.augment, gen, self._rand_augment, among)
        return among.marked(Batch(images, self._labels[indices], indices))


class InMemoryEval:
    """Implements :class:`~fsamlab.data.interface.EvalSource` on tensors."""

    def __init__(self, images: Images, cfg: DataConfig, device: torch.device) -> None:
        self.num_samples = len(images.labels)
        self._cfg, self._device = cfg, device
        self._images = Images(images.pixels.to(device), images.labels.to(device))
        self._normalisation = Normalisation(cfg, images.pixels.shape[1], device)

    def batches(self) -> Iterator[Batch]:
        """Yield the set once, in order, in chunks of `data.eval_batch_size`."""
        return self.every(1)

    def every(self, step: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches number `start`, `start + step`, ..."""
        for indices in torch.arange(self.num_samples, device=self._device).split(self._cfg.eval_batch_size)[
            start::step
        ]:
            yield self._batch(indices)

    def _batch(self, indices: Tensor) -> Batch:
        return plain_batch(self._images, indices, self._normalisation)


def build_in_memory(read: Reader, cfg: DataConfig, seed: int, device: torch.device, root: Path) -> Data:
    """Read a set, split it, add label noise to the training part and move everything to the device.

    Args:
        read: the reader of the set.
        cfg: the `data` section of the config.
        seed: determines split and label noise.
        device: where the tensors are kept.
        root: the directory of the set's files.

    Raises:
        ConfigError: files are missing, or sizes do not fit the set.
    """
    if cfg.num_workers:
        log.warning("data.num_workers=%d has no effect: %s is held in memory", cfg.num_workers, cfg.name)
    raw = read(cfg, seed, root)
    channels, height, width = raw.train.pixels.shape[1:]
    if cfg.augment.cutout >= min(height, width):
        raise ConfigError(
            "data.augment.cutout",
            cfg.augment.cutout,
            f"must be smaller than {cfg.name}'s {height}x{width} images",
        )
    split = make_split(len(raw.train.labels), raw.test is not None, cfg, seed)
    split = long_tailed(split, raw.train.labels, raw.num_classes, cfg)
    check_batch_size(len(split.train), cfg)
    train, val = raw.train.at(split.train), raw.train.at(split.val)
    noisy = _noisy_labels(raw, split.train, cfg, seed, root)
    test = raw.test if split.test is None else raw.train.at(split.test)
    assert test is not None  # the split makes a test set if the files have none
    return Data(
        train=InMemoryTrain(Images(train.pixels, noisy), cfg, seed, device),
        val=InMemoryEval(val, cfg, device) if cfg.val_size else None,
        test=InMemoryEval(test, cfg, device),
        num_classes=raw.num_classes,
        in_channels=channels,
        facts=facts_of(split, len(test.labels), train.labels, noisy)
        | facts_of_classes(train.labels, raw.num_classes, cfg),
        image_size=(height, width),
    )


def _noisy_labels(raw: Raw, positions: Tensor, cfg: DataConfig, seed: int, root: Path) -> Tensor:
    """Return the labels that the samples at `positions` have in training."""
    if cfg.noise_type == "human":
        # yaml: where the optimizer or the measurements alone are of use, torch and numpy are enough
        from fsamlab.data.human_labels import human_labels

        return human_labels(raw.train.labels, raw.num_classes, cfg, root)[positions]
    train = raw.train.at(positions)
    if cfg.noise_type == "instance":
        return add_instance_noise(train.pixels, train.labels, raw.num_classes, cfg.label_noise, seed)
    return add_label_noise(train.labels, raw.num_classes, cfg, seed)
