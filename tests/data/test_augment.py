import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from fsamlab.config import AugmentConfig
from fsamlab.data.augment import Draws, augment, crop_and_flip, cut_out, draw, normalise
from fsamlab.data.sampling import generator

CPU = torch.device("cpu")
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
RECIPE = AugmentConfig(crop_padding=4, flip=True, cutout=16, cutout_prob=0.5)


def column(values):
    return torch.tensor(values).view(-1, 1, 1)


def pixels(batch, channels=3, side=32, seed=0):
    shape = (batch, channels, side, side)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator(seed))


def one_by_one(images, cfg, draws):
    """The recipe as plainly as it can be said, image by image, with torchvision's functions."""
    done = []
    for i, raw in enumerate(images):
        image = raw.float() / 255
        side = image.shape[-1]
        image = tv.pad(image, [cfg.crop_padding])
        image = tv.crop(image, int(draws.crop_top[i]), int(draws.crop_left[i]), side, side)
        if draws.flip[i]:
            image = tv.horizontal_flip(image)
        image = tv.normalize(image, MEAN, STD)
        if draws.cutout[i]:
            top, left = int(draws.cutout_top[i]), int(draws.cutout_left[i])
            image[:, max(0, top) : top + cfg.cutout, max(0, left) : left + cfg.cutout] = 0
        done.append(image)
    return torch.stack(done)


def test_recipe_equals_the_slow_one():
    images = pixels(64)
    draws = draw((64, 32, 32), RECIPE, generator(1, 2), CPU)
    fast = augment(images, column(MEAN), column(STD), RECIPE, generator(1, 2))
    torch.testing.assert_close(fast, one_by_one(images, RECIPE, draws), rtol=0, atol=1e-6)


def test_every_image_draws_its_own():
    same = pixels(1).expand(128, -1, -1, -1)
    out = augment(same, column(MEAN), column(STD), RECIPE, generator(0))
    assert len(out.flatten(1).unique(dim=0)) > 100
    draws = draw((4096, 32, 32), RECIPE, generator(0), CPU)
    for name in ("crop_top", "crop_left"):
        assert getattr(draws, name).unique().tolist() == list(range(9))
    for name in ("cutout_top", "cutout_left"):
        assert getattr(draws, name).unique().tolist() == list(range(-8, 24))  # the centre on every pixel
    for name in ("flip", "cutout"):
        assert 0.45 < getattr(draws, name).float().mean() < 0.55
    # the draws of an image are independent of each other
    together = torch.stack([draws.crop_top, draws.crop_left, draws.flip, draws.cutout, draws.cutout_top]).float()
    assert torch.corrcoef(together).fill_diagonal_(0).abs().max() < 0.1


def test_nothing_configured_only_normalises():
    images = pixels(3)
    out = augment(images, column(MEAN), column(STD), AugmentConfig(), generator(0))
    torch.testing.assert_close(out, tv.normalize(images.float() / 255, MEAN, STD))


def test_float_images_are_not_rescaled():
    images = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    assert normalise(images, torch.tensor(1.0), torch.tensor(2.0)).flatten().tolist() == [-0.5, 0.5]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2**31))
def test_crop_is_a_shifted_window_with_zeros_around(height, width, padding, seed):
    cfg = AugmentConfig(crop_padding=padding)
    images = 1 + torch.rand(4, 2, height, width, generator=generator(seed))  # no zero of its own
    draws = draw((4, height, width), cfg, generator(seed), CPU)
    out = crop_and_flip(images, padding, draws)
    assert out.shape == images.shape
    for i in range(4):
        down = padding - int(draws.crop_top[i]) if padding else 0
        right = padding - int(draws.crop_left[i]) if padding else 0
        for y in range(height):
            for x in range(width):
                inside = 0 <= y - down < height and 0 <= x - right < width
                expected = images[i, :, y - down, x - right] if inside else torch.zeros(2)
                assert torch.equal(out[i, :, y, x], expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.booleans(), min_size=1, max_size=8))
def test_flip_mirrors_the_drawn_images_only(height, width, flips):
    images = pixels(len(flips), side=16)[:, :, :height, :width]
    draws = Draws(flip=torch.tensor(flips))
    out = crop_and_flip(images, 0, draws)
    for image, flipped, result in zip(images, flips, out):
        assert torch.equal(result, image.flip(-1) if flipped else image)
    assert torch.equal(crop_and_flip(out, 0, draws), images)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 16), st.integers(1, 15), st.floats(0, 1), st.integers(0, 2**31))
def test_cutout_zeroes_one_clipped_square_and_nothing_else(size, side, prob, seed):
    cfg = AugmentConfig(cutout=side, cutout_prob=prob)
    draws = draw((8, size, size), cfg, generator(seed), CPU)
    out = cut_out(torch.ones(8, 3, size, size), side, draws)
    for i in range(8):
        zero = out[i] == 0
        assert torch.equal(zero[0], zero[1])
        assert torch.equal(zero[0], zero[2])
        top, left = int(draws.cutout_top[i]), int(draws.cutout_left[i])
        rows = min(size, top + side) - max(0, top)
        columns = min(size, left + side) - max(0, left)
        assert int(zero[0].sum()) == (rows * columns if draws.cutout[i] else 0)
        assert not draws.cutout[i] or rows * columns >= 1  # the centre is inside the image


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_cutout_probability_ends(prob):
    draws = draw((500, 8, 8), AugmentConfig(cutout=4, cutout_prob=prob), generator(0), CPU)
    assert draws.cutout.float().mean() == prob
