"""Augmentation of whole batches: every image draws its own crop, flip and cutout.

The order is the order of the paper's recipe: pixels in 0..1, crop after zero padding, horizontal flip, normalisation,
then cutout with zeros (zero is the mean after normalisation). All random values are drawn first, on the CPU, and then
applied without a loop over images. RandAugment alone works image by image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fsamlab.config import AugmentConfig
from fsamlab.data.cut import ALL, Among
from fsamlab.data.rand_augment import RandAugment
from fsamlab.data.transfer import packed_to_device


@dataclass(frozen=True)
class Draws:
    """The random values of a batch, one for each image: tensors (batch,), or None where a transform is off.

    Attributes:
        crop_top: first row of the crop in the padded image, int64.
        crop_left: first column of the crop, int64.
        flip: whether the image is mirrored, bool.
        cutout: whether the image gets a cutout, bool.
        cutout_top: first row of the square, int64; negative where the border clips the square.
        cutout_left: first column of the square, int64.
    """

    crop_top: Tensor | None = None
    crop_left: Tensor | None = None
    flip: Tensor | None = None
    cutout: Tensor | None = None
    cutout_top: Tensor | None = None
    cutout_left: Tensor | None = None


def draw(
    size: tuple[int, int, int],
    cfg: AugmentConfig,
    gen: torch.Generator,
    device: torch.device,
    among: Among = ALL,
) -> Draws:
    """Draw the augmentation of a batch; with `among`, of a rank's samples: the values that the whole batch draws.

    The centre of the cutout square is uniform over the image (DeVries, Taylor 2017, arXiv 1708.04552).

    Args:
        size: (batch, height, width), of the whole batch.
        cfg: which transforms are on.
        gen: a CPU generator, so that every device gets the same values.
        device: the device of the result.
    """
    batch, height, width = size
    values: dict[str, Tensor] = {}
    if cfg.crop_padding:
        values["crop_top"] = torch.randint(2 * cfg.crop_padding + 1, (batch,), generator=gen)
        values["crop_left"] = torch.randint(2 * cfg.crop_padding + 1, (batch,), generator=gen)
    if cfg.flip:
        values["flip"] = torch.rand(batch, generator=gen) < 0.5
    if cfg.cutout:
        values["cutout"] = torch.rand(batch, generator=gen) < cfg.cutout_prob
        values["cutout_top"] = torch.randint(height, (batch,), generator=gen) - cfg.cutout // 2
        values["cutout_left"] = torch.randint(width, (batch,), generator=gen) - cfg.cutout // 2
    return Draws(**packed_to_device({name: among.of(value) for name, value in values.items()}, device))


def crop_and_flip(images: Tensor, padding: int, draws: Draws) -> Tensor:
    """Cut (batch, channels, height, width) images at the drawn offsets after zero padding, and mirror them."""
    batch, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(batch, height)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    if draws.flip is not None:
        columns = torch.where(draws.flip[:, None], columns.flip(1), columns)
    if draws.crop_top is not None and draws.crop_left is not None:
        images = F.pad(images, (padding,) * 4)
        rows, columns = rows + draws.crop_top[:, None], columns + draws.crop_left[:, None]
    # Crop and flip in one gather for the whole batch: each output pixel has a flat index into its padded image.
    pixel = rows[:, :, None] * images.shape[3] + columns[:, None, :]
    taken = images.flatten(2).gather(2, pixel.view(batch, 1, -1).expand(-1, channels, -1))
    return taken.view(batch, channels, height, width)


def cut_out(images: Tensor, side: int, draws: Draws) -> Tensor:
    """Set the drawn squares, clipped at the border, of (batch, channels, height, width) images to zero."""
    if draws.cutout is None or draws.cutout_top is None or draws.cutout_left is None:
        return images
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device) - draws.cutout_top[:, None]
    column = torch.arange(width, device=images.device) - draws.cutout_left[:, None]
    in_rows = (row >= 0) & (row < side) & draws.cutout[:, None]
    in_columns = (column >= 0) & (column < side)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return float32 `(x - mean) / std`; uint8 images are scaled to 0..1 first.

    Args:
        images: uint8 0..255 or float32 (batch, channels, height, width).
        mean: float32 (channels, 1, 1), for pixels in 0..1.
        std: of the same shape.
    """
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    return (pixels - mean) / std


def augment(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    cfg: AugmentConfig,
    gen: torch.Generator,
    rand_augment: RandAugment | None = None,
    among: Among = ALL,
) -> Tensor:
    """Return normalised and augmented images; the arguments are those of :func:`normalise` and :func:`draw`.

    `rand_augment`, where it is on, changes the images after crop and flip, one by one. `among` says which images of a
    batch these are, where a rank has a part of the batch.
    """
    draws = draw((among.size(len(images)), images.shape[2], images.shape[3]), cfg, gen, images.device, among)
    if cfg.crop_padding or cfg.flip:
        images = crop_and_flip(images, cfg.crop_padding, draws)
    if rand_augment is not None:
        images = rand_augment.batch(images, gen, among)
    return cut_out(normalise(images, mean, std), cfg.cutout, draws)
