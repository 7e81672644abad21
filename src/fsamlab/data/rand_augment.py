"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719): timm's implementation, image by image, on 8-bit pixels.

timm draws from the global generators of Python and numpy. Here each image has a seed of its own, and the generators
keep their states, so the draws depend neither on the order of the images nor on the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.cut import ALL, Among
from fsamlab.data.foreign_random import drawing_from

if TYPE_CHECKING:
    from PIL import Image  # elsewhere in functions: fsamlab.diagnostics works where torch and numpy alone are installed

SEEDS = 2**62
PIXELS = (torch.uint8, (1, 3))  # what PIL's operations take: 8 bits, grey or RGB


class RandAugment:
    """Changes images of one set.

    Args:
        words: in timm's form, for example `rand-m9-mstd0.5-inc1`; see `data.augment.randaugment`.
        size: the shorter side of the images in pixels.
        mean: mean of each channel, for pixels in 0..1; timm fills the pixels outside a moved image with it.
    """

    def __init__(self, words: str, size: int, mean: Sequence[float]) -> None:
        from timm.data.auto_augment import rand_augment_transform  # slow to import, and most runs do without

        fill = tuple(min(255, max(0, round(255 * value))) for value in mean)
        # as timm's own pipeline for ImageNet sets them
        settings = {"translate_const": int(0.45 * size), "img_mean": fill if len(fill) > 1 else fill[0]}
        self._transform = rand_augment_transform(words, settings)
        for operation in self._transform.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return a changed image; the seed is drawn from torch's global generator, as the transforms of torchvision."""
        return self.seeded(image, int(torch.randint(SEEDS, ())))

    def seeded(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image, changed as the seed decides."""
        with drawing_from(seed):
            changed: Image.Image = self._transform(image)
            return changed

    def batch(self, images: Tensor, gen: torch.Generator, among: Among = ALL) -> Tensor:
        """Return changed images: uint8 (n, channels, height, width) with 1 or 3 channels, on the device of `images`.

        Args:
            gen: a CPU generator, for the seeds of the images.
            among: which images of a batch these are.
        """
        from PIL import Image

        seeds = among.of(torch.randint(SEEDS, (among.size(len(images)),), generator=gen)).tolist()
        changed = []
        for pixels, seed in zip(images.permute(0, 2, 3, 1).cpu().numpy(), seeds):
            image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
            changed.append(np.asarray(self.seeded(image, seed)).reshape(pixels.shape))
        return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).to(images.device)


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the upper `bits` bits of each value: all from 8 bits on, and 0 bits or less give a black image.

    timm asks for 0 bits at the largest magnitude. Earlier versions of Pillow gave the black image, and newer versions
    refuse 0 bits.
    """
    from PIL import Image, ImageOps

    return ImageOps.posterize(image, min(bits, 8)) if bits > 0 else Image.new(image.mode, image.size)


def rand_augment_in_memory(cfg: DataConfig, pixels: Tensor) -> RandAugment | None:
    """Return RandAugment for a set in memory, uint8 or float (n, channels, height, width); None where it is off.

    Raises:
        ConfigError: pixels that are not 8-bit grey or RGB.
    """
    words = cfg.augment.randaugment
    if words is None:
        return None
    dtype, channels = PIXELS
    if pixels.dtype != dtype or pixels.shape[1] not in channels:
        found = f"{cfg.name} has {pixels.shape[1]} channels of {str(pixels.dtype).removeprefix('torch.')}"
        allowed = f"needs images of 8 bits, grey or RGB, as CIFAR and folders of images have; {found}"
        raise ConfigError("data.augment.randaugment", words, allowed)
    return RandAugment(words, min(pixels.shape[2:]), cfg.mean * (pixels.shape[1] // len(cfg.mean)))
